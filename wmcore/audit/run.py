"""`audit`: write, read back, test, and ask."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from wmcore._version import __version__
from wmcore.audit import checks
from wmcore.audit.chance import ERROR, SHARE
from wmcore.audit.diagnosis import diagnoses
from wmcore.audit.result import Audit, bare_name
from wmcore.audit.seen import Seen, see, tokens_until, under_other_keys
from wmcore.audit.shifts import shifts
from wmcore.audit.writers import Writer, Written, check_written
from wmcore.checks import real_number, whole_number
from wmcore.detect import Detection, Detector, checked_detector, resamples_for
from wmcore.detection import LEVEL
from wmcore.errors import WatermarkError
from wmcore.key import PublishedKey
from wmcore.plan import Plan
from wmcore.versions import versions

TECHNIQUES = {
    "exp": "a key sequence and exponential minimum sampling (Kuditipudi et al., arXiv 2307.15593)",
    "its": "a key sequence and inverse transform sampling (Kuditipudi et al., arXiv 2307.15593)",
}

AGAIN = 2
"""Unmarked texts that are tested again, where the watermark's p has no bound."""


@dataclass(frozen=True)
class Settings:
    """How much is written and tested.

    Attributes
    ----------
    texts : int
        Texts, spread over the prompts.
    answers : int
        More answers to the first prompt.
    level : float
        The p up to which a text is found, 1e-4 to 0.1.
    need : float
        The share of marked texts that must be found, 0 to 1.
    other_keys : int
        Keys of its own that each of the `texts` is tested under besides.
    curves : int
        Texts whose prefixes are tested.
    seed : int
        Of the other keys and of the permutations.
    keep_texts : bool
        Whether the rows have the texts.
    """

    texts: int = 20
    answers: int = 12
    level: float = LEVEL
    need: float = 0.8
    other_keys: int = 5
    curves: int = 12
    seed: int = 0
    keep_texts: bool = False

    def __post_init__(self) -> None:
        for name in ("texts", "answers", "other_keys", "curves", "seed"):
            whole_number(name, getattr(self, name), 1 if name == "texts" else 0)
        real_number("level", self.level, 1e-4, 0.1)
        real_number("need", self.need, 0, 1)


def audit(
    detector: Detector,
    writer: Writer,
    prompts: Sequence[str],
    *,
    settings: Settings | None = None,
    unmarked: Sequence[str] = (),
    stage: Callable[[str], object] = lambda _: None,
) -> Audit:
    """Audit a set-up that writes watermarked texts.

    Parameters
    ----------
    detector : Detector
        With a tokenizer: the texts are read back, as others will read them.
    writer : Writer
        A `ModelWriter`, an `EndpointWriter` or `GivenTexts`.
    prompts : sequence of str
        At least one. The more different ones, the better.
    settings : Settings, optional
    unmarked : sequence of str
        Ordinary texts, beside those that the writer makes with the watermark off, if it can.
    stage : callable
        Told in words what is being done.

    Returns
    -------
    Audit

    Raises
    ------
    WatermarkError
        For a detector without tokenizer, no prompts, or where no text could be written at all.

    Notes
    -----
    A sound set-up has a check that is bad with a probability of at most `wmcore.audit.chance.ERROR`.
    """
    settings = settings or Settings()
    began = _now()
    if checked_detector(detector).tokenizer is None:
        raise WatermarkError("detector has no tokenizer, but texts are read back: give it one")
    if not prompts:
        raise WatermarkError("prompts are empty: give at least one")
    places = [i % len(prompts) for i in range(settings.texts)] + [0] * settings.answers
    stage("writing marked texts")
    written = writer.write(prompts, places, marked=True)
    check_written(written)
    marked = see(detector, "marked", written, settings.level)
    plain: list[Written] = []
    if writer.unmarks:
        stage("writing unmarked texts")
        plain = writer.write(prompts, places, marked=False)
    plain = [*plain, *(Written(None, text) for text in unmarked)]
    stage("testing")
    bare = see(detector, "unmarked", plain, settings.level)
    controls = _controls(detector, marked, settings)
    stage("testing prefixes")
    until = _curves(detector, marked, settings)
    sizes = _sizes(detector, writer, marked)
    lossless = [_lossless(detector, one) for one in marked if one.read]
    lengths = [len(marked[i].read or ()) for i in until]
    asked = (
        checks.written(marked, bare),
        checks.found(marked, settings.level, settings.need),
        checks.false_alarms(bare, _again(detector, bare, settings), controls, settings.level),
        checks.round_trip(marked, lossless, settings.level),
        shifts(
            marked,
            bare,
            rows=detector.watermark.key_length,
            level=settings.level,
            seed=settings.seed,
        ),
        checks.tokens_needed(list(until.values()), lengths, settings.level),
        checks.vocabulary(sizes, marked),
    )
    described = {name: bare_name(value) for name, value in writer.describe().items()}
    return Audit(
        began=began,
        ended=_now(),
        version=__version__,
        versions=versions(),
        technique=TECHNIQUES[detector.watermark.sampler],
        fingerprint=detector.watermark.fingerprint,
        watermark=_watermark(detector),
        detector=_detector(detector, settings),
        writer=described,
        level=settings.level,
        error=ERROR,
        counts=_counts(marked, bare, controls, settings.level),
        checks=asked,
        diagnoses=diagnoses(
            {check.name: check for check in asked},
            marked,
            temperature=described.get("temperature"),
            fingerprint=detector.watermark.fingerprint,
            level=settings.level,
        ),
        rows=tuple(
            one.row(settings.level, until.get(i), settings.keep_texts)
            for i, one in enumerate([*marked, *bare])
        ),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _controls(detector: Detector, marked: Sequence[Seen], settings: Settings) -> list[Detection]:
    """Marked texts under keys of their own; none where the published code's its keys have no others of their law."""
    found: list[Detection] = []
    if isinstance(detector.watermark.key, PublishedKey) and detector.watermark.sampler == "its":
        return found
    texts = [one for one in marked if one.p is not None][: settings.texts]
    for i, one in enumerate(texts):
        seed = f"{settings.seed} {i}"
        found += under_other_keys(
            detector, one.read or (), settings.other_keys, seed, settings.level
        )
    return found


def _again(detector: Detector, bare: Sequence[Seen], settings: Settings) -> dict[int, Detection]:
    """A finer test of the first unmarked texts that are found without a bound, by place."""
    tested = sum(one.p is not None for one in bare)
    unclear = [
        i
        for i, one in enumerate(bare)
        if one.p is not None and one.p <= settings.level and one.found.method != "bound"
    ]
    if not unclear:
        return {}
    plan = Plan(int(1.1 * tested / SHARE) + 1)
    again = detector.detect(
        [bare[i].read or () for i in unclear[:AGAIN]], plan=plan, seed=detector.seed(None) ^ 1
    )
    return dict(zip(unclear, again, strict=False))


def _curves(
    detector: Detector, marked: Sequence[Seen], settings: Settings
) -> dict[int, int | None]:
    """Tokens until a text is found, by place, of the first texts that can be tested."""
    texts = [
        i for i, one in enumerate(marked) if one.p is not None and not one.short(settings.level)
    ]
    return {i: tokens_until(detector, marked[i], settings.level) for i in texts[: settings.curves]}


def _sizes(detector: Detector, writer: Writer, marked: Sequence[Seen]) -> dict[str, Any]:
    """What `checks.vocabulary` compares."""
    theirs = getattr(writer, "tokenizer", None)
    alike = None
    if theirs is not None:
        texts = [one for one in marked if one.written.text]
        alike = all(
            list(theirs(one.written.text, add_special_tokens=False)["input_ids"]) == one.read
            for one in texts
        )
    try:
        known: int | None = len(detector.tokenizer)
    except TypeError:
        known = None
    end = getattr(theirs, "eos_token_id", None)
    return {
        "watermark": detector.watermark.vocab_size,
        "tokenizer": known,
        "logits": getattr(writer, "logits", None),
        "end": None if end is None else [int(end)],
        "alike": alike,
    }


def _lossless(detector: Detector, one: Seen) -> bool:
    """Whether the tokenizer gives back the text that it read, but for white space."""
    decoded = detector.tokenizer.decode(one.read, skip_special_tokens=False)
    return "".join(decoded.split()) == "".join(str(one.written.text).split())


def _watermark(detector: Detector) -> dict[str, Any]:
    mark = detector.watermark
    names = ("scheme", "vocab_size", "key_length", "block_length", "gap", "tokenizer")
    return {name: bare_name(getattr(mark, name)) for name in names}


def _detector(detector: Detector, settings: Settings) -> dict[str, Any]:
    how = detector.statistic
    return {
        "scheme": how.scheme.name,
        "score": None if how.scores is None else how.scores.name,
        "gap": how.gap,
        "block_length": how.block_length,
        "resamples": resamples_for(settings.level),
        "backend": detector.backend,
        "tokenizer": bare_name(getattr(detector.tokenizer, "name_or_path", None)),
    }


def _counts(
    marked: Sequence[Seen], bare: Sequence[Seen], controls: Sequence[Detection], level: float
) -> dict[str, int]:
    every = [*marked, *bare]
    hits = Counter(one.kind for one in every if one.p is not None and one.p <= level)
    other = [one.p_value for one in controls if one.p_value is not None]
    return {
        "marked": len(marked),
        "unmarked": len(bare),
        "failed": sum(one.written.error is not None for one in every),
        "too_short": sum(one.short(level) for one in marked),
        "found": hits["marked"],
        "false_alarms": hits["unmarked"],
        "other_keys": len(other),
        "other_keys_found": sum(p <= level for p in other),
    }
