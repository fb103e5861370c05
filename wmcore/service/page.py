"""The page of the service: a form, and what is said of a text in words that a person can read.

It works without JavaScript: the form is posted, and the answer is a page with the form below. Nothing is fetched, and
the policy of the answer's header lets nothing run or apply but the page's own script and style, by their hashes.
"""

import re
from base64 import b64encode
from dataclasses import dataclass
from functools import cache
from hashlib import sha256

from wmcore import token_page
from wmcore._version import __version__
from wmcore.detection import LEAST_TOKENS
from wmcore.pages import fill, p_in_words, power_of_ten
from wmcore.service.panel import FOUND, NOT_FOUND, TOO_SHORT, Answer

HEADINGS = {
    FOUND: "Watermark found",
    NOT_FOUND: "Watermark not found",
    TOO_SHORT: "Too short to tell",
}
MISSED = "This does not say that the text is not ours: short or much edited texts can be missed."


@dataclass(frozen=True)
class Site:
    """What the page says whatever it is asked.

    Attributes
    ----------
    technique, false_alarm : str
        Sentences: what is tested for, and how often a text without the watermark is found.
    threshold : float
        The largest p of a text that is found.
    most_tokens : int
        In a text.
    watermarks : int
        For how many each text is tested.
    asks_for_token : bool
        Whether there is a field for an access token.
    operator, contact : str
        Who answers for the service; empty where that is not set.
    """

    technique: str
    false_alarm: str
    threshold: float
    most_tokens: int
    watermarks: int = 1
    asks_for_token: bool = False
    operator: str = ""
    contact: str = ""


def blank(site: Site) -> str:
    """The page before anything is asked."""
    return _page(site)


def answered(site: Site, text: str, answer: Answer) -> str:
    """The page with what is said of a text, and the text in its box: coloured where the answer has a detail."""
    if answer.verdict not in HEADINGS:
        return refused(site, text, "Not tested", f"{answer.error}.")
    d = answer.detail
    passage = None
    if d is not None and len(d.tokens):
        passage = token_page.passage(
            "",
            d.scheme,
            d.tokenizer,
            d.tokens.tolist(),
            d.detection,
            d.spans,
            threshold=site.threshold,
        )
    return _page(
        site,
        text=text,
        heading=HEADINGS[answer.verdict],
        answer=answer,
        meaning=_meaning(site, answer),
        facts=_facts(site, answer),
        passage=passage,
        marked=passage is not None and any(piece.begins for piece in passage.pieces),
    )


def refused(site: Site, text: str, heading: str, problem: str) -> str:
    """The page that says why there is no answer, with the text in its box."""
    return _page(site, text=text, heading=heading, problem=problem)


@cache
def content_security_policy() -> str:
    """Of every page: only its own style and script, no other place to post to, and no page around it."""
    page = blank(
        Site("", "", 0.0, 0)
    )  # what is hashed is the same in all pages, and holds nobody's text
    (style,), (script,) = (_hashes(page, tag) for tag in ("style", "script"))
    return (
        f"default-src 'none'; style-src {style}; script-src {script}; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    )


def _hashes(page: str, tag: str) -> list[str]:
    inside = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
    return [f"'sha256-{b64encode(sha256(one.encode()).digest()).decode()}'" for one in inside]


def _page(site: Site, **said: object) -> str:
    nothing = {"text": "", "heading": "", "problem": "", "answer": None}
    return fill(
        "service.html",
        **{**nothing, **said},
        site=site,
        levels=token_page.LEVELS,
        least=LEAST_TOKENS,
        most_words=_two_digits(site.most_tokens * 3 // 4),
        version=__version__,
    )


def _two_digits(number: int) -> int:
    return round(number, 2 - len(str(number)))


def _meaning(site: Site, answer: Answer) -> list[str]:
    """What the verdict says, in sentences."""
    p = answer.p_value
    fit = [] if p is None else [f"p = {power_of_ten(p)}: {p_in_words(p)}."]
    if answer.verdict == FOUND:
        return ["The text fits our secret key too well for chance.", *fit, _rule(site)]
    if answer.verdict == NOT_FOUND:
        untold = (
            [f"Not all of our watermarks could be sought: {answer.error}."] if answer.error else []
        )
        return [*fit, *untold, MISSED, _rule(site)]
    if answer.length is None:
        return ["Paste more of it, if there is more."]
    return [
        f"It has {answer.length:,} token{'' if answer.length == 1 else 's'} (words or parts of words). "
        f"At least {LEAST_TOKENS} different ones are needed. Paste more of it, if there is more."
    ]


def _rule(site: Site) -> str:
    return f"A watermark counts as found if p ≤ {power_of_ten(site.threshold)}: {site.false_alarm}"


def _facts(site: Site, answer: Answer) -> list[tuple[str, str]]:
    """Names and values to list below the verdict."""
    facts = []
    if answer.length is not None:
        facts.append(("Tokens", f"{answer.length:,}"))
    if answer.windows > 1:
        facts.append(("Windows tested, for which p allows", f"{answer.windows:,}"))
    if site.watermarks > 1 and answer.p_value is not None:
        facts.append(("Watermarks tested, for which p allows", f"{site.watermarks:,}"))
    if answer.watermark is not None and site.watermarks > 1:
        facts.append(("Watermark", answer.watermark))
    if answer.fingerprint is not None:
        facts.append(("Key's fingerprint", answer.fingerprint))
    return facts
