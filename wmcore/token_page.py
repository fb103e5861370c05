"""The HTML page on which each token is coloured by how well it fits the key row it was aligned to.

The page is one self-contained file: no script, nothing fetched, all text escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from wmcore._version import __version__
from wmcore.pages import fill, power_of_ten
from wmcore.schemes import SCHEMES

if TYPE_CHECKING:
    from wmcore.detect import Detection
    from wmcore.locate import Span

LEVELS = (2.0, 5.0, 10.0, 30.0, 100.0, 1000.0)
"""A token is coloured one level stronger each time its fit is rarer than 1 in so many."""
BEST = 20
"""So many tokens of a text are listed with their numbers."""
RAREST = 1e9
"""Fits are called no rarer than 1 in so many."""
_CHARACTER = 4  # tokens that can share one, as UTF-8 has at most so many bytes: U+FFFD may be what a text says
FOUND = 0.01
"""The p up to which a watermark counts as found, unless another is said."""


@dataclass(frozen=True)
class Piece:
    """A token as shown: the spaces before it, its text and colour level (None when no key row met it), whether key
    rows were skipped or repeated before it, whether it is inside a passage that is marked, what is said at the first
    token of one, and whether it is outside the window that was aligned."""

    space: str
    text: str
    level: int | None
    jump: bool
    inside: bool = False
    begins: str = ""
    outside: bool = False


@dataclass(frozen=True)
class Fit:
    """A token in numbers: its place in the text, the key row it met, the cost, and that an independent key row costs
    no more in 1 of `rarity` cases."""

    position: int
    text: str
    row: int
    cost: float
    rarity: float


@dataclass(frozen=True)
class Passage:
    """A text as shown, with its p-value, the p up to which it counts as found, and its tokens that fit best."""

    title: str
    about: str
    p_value: float | None
    threshold: float
    error: str | None
    length: int | None
    pieces: list[Piece]
    best: list[Fit]
    found: bool | None
    """Whether p is at most the threshold; None where the test could not have told."""
    verdict: str


@dataclass(frozen=True)
class Example:
    """Texts that belong together, and the prompt that they continue, if any."""

    title: str
    passages: list[Passage]
    prompt: str = ""


@dataclass(frozen=True)
class Section:
    """One way to test, and what was tested."""

    title: str
    summary: str
    examples: list[Example]


def chance_of_fit(scheme: str, cost: float) -> float:
    """Chance that an independent key row fits a token at least as well, from its cost in the key."""
    return SCHEMES[scheme].cost.chance(cost)


def token_texts(tokenizer: Any, tokens: Sequence[int]) -> list[str]:
    """The piece of text that each token adds; a token in the middle of a character adds none."""
    texts: list[str] = []
    start = read = 0
    for end in range(1, len(tokens) + 1):
        before = tokenizer.decode(tokens[start:read])
        now = tokenizer.decode(tokens[start:end])
        if now.endswith("\ufffd") and end < min(len(tokens), read + _CHARACTER):
            texts.append("")
        else:
            texts.append(now[len(before) :])
            start, read = read, end
    return texts


def passage(
    title: str,
    scheme: str,
    tokenizer: Any,
    tokens: Sequence[int],
    detection: Detection,
    spans: Sequence[Span] = (),
    *,
    about: str = "",
    threshold: float = FOUND,
) -> Passage:
    """A text to show, from a detection made with ``alignment=True``.

    Parameters
    ----------
    title
        A word that tells it from the other texts of an example; empty for the only one.
    scheme
        That it was tested as.
    tokenizer
        With `decode`.
    tokens, detection
        The text, and what was detected in it.
    spans
        What `locate` found in it: passages to mark. Without any, a text that was tested in windows has its best one
        marked.
    about
        What is said of it beside the title.
    threshold
        The p up to which the watermark counts as found.
    """
    texts = token_texts(tokenizer, [int(t) for t in tokens])
    fits = _fits(scheme, texts, detection)
    first, last = detection.window or (0, len(texts))
    pieces = []
    previous = None
    for i, whole in enumerate(texts):
        text = whole.lstrip(" ")
        space = " " * (len(whole) - len(text))
        if i not in fits:
            pieces.append(Piece(space, text, None, False, outside=not first <= i < last))
            continue
        fit = fits[i]
        level = sum(fit.rarity >= limit for limit in LEVELS)
        jump = previous is not None and fit.row != previous + 1 and fit.row != 0
        pieces.append(Piece(space, text, level, jump))
        previous = fit.row
    for begins, start, stop in _marks(spans, detection):
        for i in range(start, stop):
            pieces[i] = replace(pieces[i], inside=True)
        pieces[start] = replace(pieces[start], begins=begins)
    best = sorted(fits.values(), key=lambda fit: (-fit.rarity, fit.position))[:BEST]
    return Passage(
        title,
        about,
        detection.p_value,
        threshold,
        detection.error,
        detection.length,
        pieces,
        best,
        detection.found(threshold),
        detection.verdict(threshold),
    )


def _marks(spans: Sequence[Span], detection: Detection) -> list[tuple[str, int, int]]:
    """What to mark: what is said of it, its first token, and the one after its last."""
    if not spans and detection.window is not None:
        return [("the best window", *detection.window)]
    return [
        (f"passage {number}: p = {power_of_ten(span.p_value)}", span.start, span.stop)
        for number, span in enumerate(spans, start=1)
    ]


def _fits(scheme: str, texts: Sequence[str], detection: Detection) -> dict[int, Fit]:
    """The tokens that met a key row, by their places."""
    found: dict[int, Fit] = {}
    a = detection.alignment
    if a is not None:
        for position, row, cost in zip(a.positions, a.rows, a.costs, strict=True):
            if row >= 0:
                place = int(position)
                rarity = 1.0 / max(chance_of_fit(scheme, float(cost)), 1.0 / RAREST)
                found[place] = Fit(place, texts[place], int(row), float(cost), rarity)
    return found


def render(title: str, sections: Sequence[Section]) -> str:
    """The page as a string of HTML.

    Parameters
    ----------
    title
        Heading of the page.
    sections
        What to show, in order.
    """
    return fill(
        "tokens.html",
        title=title,
        sections=sections,
        levels=LEVELS,
        made=datetime.now(UTC),
        version=__version__,
    )
