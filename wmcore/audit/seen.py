"""The texts of an audit, tested: as they are read back, and as they were drawn where that is known."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Any

from wmcore.audit.result import Row
from wmcore.audit.writers import Written
from wmcore.detect import Detector
from wmcore.detection import LEAST_TOKENS, Detection
from wmcore.prefix import prefix_curve

MOST_CURVE_RESAMPLES = 9_999


@dataclass(frozen=True)
class Seen:
    """A text and what its tests said.

    Attributes
    ----------
    kind : str
        "marked" or "unmarked".
    written : Written
    read : list of int or None
        The tokens of the text as the detector's tokenizer cuts it.
    found : Detection
        Of those.
    drawn : Detection or None
        Of the tokens that were drawn.
    """

    kind: str
    written: Written
    read: list[int] | None
    found: Detection
    drawn: Detection | None = None

    @property
    def p(self) -> float | None:
        """p of the text as it is read."""
        return self.found.p_value

    def short(self, level: float) -> bool:
        """Whether it is not found, and too short to say more."""
        length = 0 if self.read is None else len(self.read)
        below = length < LEAST_TOKENS and (self.p is None or self.p > level)
        return below and self.written.text is not None and self.read is not None

    @property
    def changed(self) -> bool | None:
        """Whether other tokens are read than were drawn."""
        if self.written.tokens is None or self.read is None:
            return None
        return self.read != self.written.tokens

    @property
    def kept(self) -> float | None:
        """The share of tokens that both the drawn and the read text have, in order: 2 common / (drawn + read)."""
        if self.written.tokens is None or self.read is None:
            return None
        return SequenceMatcher(None, self.written.tokens, self.read, autojunk=False).ratio()

    def row(self, level: float, until: int | None, with_text: bool) -> Row:
        """As the report has it."""
        found, written = self.found, self.written
        return Row(
            kind=self.kind,
            prompt=written.prompt,
            tokens=None if self.read is None else len(self.read),
            drawn=written.drawn if written.tokens is None else len(written.tokens),
            changed=self.changed,
            p_value=found.p_value,
            statistic=found.statistic,
            shift=found.shift,
            drawn_p_value=None if self.drawn is None else self.drawn.p_value,
            until=until,
            verdict=None if found.error is not None else found.verdict(level),
            error=written.error or found.error,
            text=written.text if with_text else None,
        )


def see(detector: Detector, kind: str, written: Sequence[Written], level: float) -> list[Seen]:
    """Test texts. One that was not written, or cannot be tested, has the reason in `Seen.found`."""
    texts = [one for one in written if one.text is not None]
    read = [tokens_of(detector, str(one.text)) for one in texts]
    found = iter(
        detector.detect(
            [str(one.text) if ids is None else ids for one, ids in zip(texts, read, strict=True)],
            level=level,
        )
    )
    known = [one.tokens for one in texts if one.tokens is not None]
    drawn = iter(detector.detect(known, level=level))
    tokens = iter(read)
    return [
        Seen(kind, one, None, Detection.failed(str(one.error), detector.backend))
        if one.text is None
        else Seen(kind, one, next(tokens), next(found), None if one.tokens is None else next(drawn))
        for one in written
    ]


def tokens_of(detector: Detector, text: str) -> list[int] | None:
    """The token ids that the detector reads, known to the watermark or not; None if its tokenizer fails."""
    try:
        coded = detector.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [int(token) for token in coded]
    except Exception:  # a tokenizer's own; `Detector` says which
        return None


def tokens_until(detector: Detector, seen: Seen, level: float) -> int | None:
    """Tokens of the shortest prefix with p <= level; None where there is none, or no curve."""
    resamples = max(999, math.ceil(1 / level) - 1)
    if seen.p is None or seen.read is None:
        return None
    if seen.found.windows > 1 or resamples > MOST_CURVE_RESAMPLES:
        return None
    curve = prefix_curve(whole_text(detector), seen.read, resamples=resamples)
    return curve.tokens_until(level)


def whole_text(detector: Detector) -> Detector:
    """The detector itself, or one like it that aligns whole texts."""
    return detector if detector.engine.block_length is None else _like(detector, block_length=0)


def under_other_keys(
    detector: Detector, text: Sequence[int], count: int, seed: str, level: float
) -> list[Detection]:
    """The text tested under so many keys that no text carries; each is used for nothing else."""
    mark = detector.watermark
    found = []
    for number in range(count):
        label = hashlib.sha256(f"wmcore audit\x00{seed}\x00{number}".encode()).digest()
        key = mark.key.control(mark.sampler, label)
        found += _like(detector, replace(mark, key=key)).detect([text], level=level)
    return found


def _like(detector: Detector, mark: Any = None, block_length: int | None = None) -> Detector:
    """A detector with the same statistic for another key, or for whole texts."""
    how = detector.statistic
    return Detector(
        detector.watermark if mark is None else mark,
        scheme=how.scheme.name,
        gap=how.gap,
        block_length=(how.block_length or 0) if block_length is None else block_length,
        score=how.scores,
        backend=detector.backend,
        threads=detector.threads,
    )
