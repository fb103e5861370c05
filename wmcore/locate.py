"""Where in a long text the watermark is: several passages, each with a p-value that is valid for all of them together.

The best local alignment of the text with the key is a passage, or the best part of it where it loses more than `DROP`
nats in between: two passages that are joined at a loss are two. What is left to the left and right are texts of their
own, in which the best passage is sought again, and so on, as long as a passage is significant.

Why p is valid. Let U be the tokens that do not depend on the key, and v the least statistic of any stretch of them. A
passage found inside U has a statistic of at least v. Its p compares it with the statistics of the *whole* text under
resampled keys, which are at most those of the stretches of U, since a local alignment of a part is one of the whole. So
its p is at least that of the exact permutation test of v, and P(some passage inside U has p <= a) <= a: family-wise,
whatever the rest of the text carries (max-T, Westfall and Young 1993). Where a proven bound (`segments.py`), with the m
of the whole text, is at most eps = 1 / (100 (T + 1)), it is p instead, and eps is added to every other p: as in
`plan.py`, P(p <= a) <= eps + (a - eps), the bound holding for all passages at once, too. It knows segments of at most n
tokens, without gaps; a text longer than n tokens may meet the key's rows again, which the permutation test allows.

A passage that covers marked and unmarked text counts as marked. Its ends are where the score is largest: a few tokens
more or fewer than were marked.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wmcore.characters import characters
from wmcore.checks import memory_error, real_number, whole_number
from wmcore.detect import Alignment, Detector, checked_detector
from wmcore.errors import WatermarkError
from wmcore.kernels.problem import Resamples, ScoredTexts
from wmcore.plan import MOST, Plan, bound_value
from wmcore.schemes import LOCAL, named
from wmcore.segments import log_segment_bound
from wmcore.types import TokenIds

DROP = 8.0
"""Nats that a passage may lose between two parts of it. 80 tokens without the watermark lose about so much."""
LEVEL = 0.01
RESAMPLES = 999


@dataclass(frozen=True)
class Span:
    """A passage with the watermark.

    Attributes
    ----------
    start, stop : int
        Tokens start .. stop - 1 of the text.
    char_start, char_stop : int or None
        Its characters; None for token ids, and where the tokenizer does not tell.
    p_value : float
        Valid for all spans of a text together.
    statistic : float
        The cost of its alignment, in nats; lower fits better.
    shift : int
        The key row that its first token meets.
    method : str
        Where p comes from: "bound" or "permutation".
    alignment : Alignment
        Which token met which key row; positions are those of the text.
    """

    start: int
    stop: int
    char_start: int | None
    char_stop: int | None
    p_value: float
    statistic: float
    shift: int
    method: str
    alignment: Alignment = field(compare=False)

    def to_dict(self) -> dict[str, Any]:
        """The fields but for the alignment, JSON-ready."""
        names = (name for name in self.__dataclass_fields__ if name != "alignment")
        return {name: getattr(self, name) for name in names}


def local_detector(detector: Detector) -> Detector:
    """The detector itself if it aligns locally, else one that does: what `locate` works with."""
    statistic = detector.statistic
    if statistic.scheme.alignment == LOCAL:
        return detector
    scheme = named(statistic.scheme.cost, LOCAL)
    assert scheme is not None
    return Detector(
        detector.watermark,
        scheme=scheme.name,
        score=statistic.scores,
        backend=detector.backend,
        threads=detector.threads,
        tokenizer=detector.tokenizer,
    )


def locate(
    detector: Detector,
    text: str | TokenIds,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int | None = None,
) -> list[Span]:
    """The passages of a text that carry the watermark, edits included.

    Parameters
    ----------
    detector : Detector
        Of any scheme. If it aligns locally, its gap is taken, else that of its sampler's local scheme; its scores are
        taken where it adds up some.
    text : sequence of int or str
    level : float
        The largest p of a passage, 0 to 1: the chance that any passage is found in text without the watermark.
    resamples : int
        T. All are used: the least p is 1.01 / (T + 1), or a proven bound for strong passages. None is made where that
        exceeds the level.
    seed : int, optional
        Of the resamples, as in `Detector.detect`.

    Returns
    -------
    list of Span
        In the order of the text, without overlaps; empty if nothing is significant.

    Raises
    ------
    WatermarkError
        For a number out of range, a text that cannot be read, or one whose n m bytes exceed the limit of a table.

    Notes
    -----
    Time: n * m cells a resample, and for each passage and each piece between passages. Memory: n m bytes.
    """
    level = real_number("level", level, 0, 1)
    resamples = whole_number("resamples", resamples, 1, MOST)
    local = local_detector(checked_detector(detector))
    batch = local.read([text])
    if batch.failed:
        raise WatermarkError(batch.failed[0][1])
    length, n = len(batch.arrays[0]), local.engine.problem.n
    too_large = memory_error(
        f"the table of the paths of {length:,} tokens at {n:,} key rows",
        length * n,
        "locate in parts of the text",
    )
    if too_large:
        raise WatermarkError(too_large)
    whole = local.engine.pack(batch.arrays)
    assert isinstance(whole, ScoredTexts)
    plan = Plan(resamples, None)
    null = np.empty(0)
    if 1 / (resamples + 1) + plan.epsilon <= level:
        some = Resamples(local.seed_key(seed), 0, resamples)
        null = np.sort(local.engine.null(whole, 0, some))
    test = _Test(local, whole, null, plan.epsilon, _encoding(local, text))
    found: list[Span] = []
    pieces = [(0, length)]
    while pieces:
        start, stop = pieces.pop()
        span = test.best(start, stop) if start < stop else None
        if span is not None and span.p_value <= level:
            found.append(span)
            pieces += [(start, span.start), (span.stop, stop)]
    return sorted(found, key=lambda span: span.start)


@dataclass(frozen=True)
class _Test:
    """What the pieces of a text are tested with. null: float64 [T], sorted, empty where it can decide nothing."""

    detector: Detector
    whole: ScoredTexts
    null: np.ndarray
    epsilon: float
    encoding: Any

    def best(self, start: int, stop: int) -> Span | None:
        """The best passage of tokens start .. stop - 1, significant or not; None if no token fits."""
        engine, source = self.detector.engine, self.detector.costs
        piece = self.whole.cut(start, stop)
        path = engine.path(piece, source)
        if not len(path.positions):
            return None
        costs = engine.path_costs(piece, source, path)
        part, cost = _best_part(costs.tolist(), DROP * engine.problem.scale)
        path = Alignment(path.positions[part] + start, path.rows[part], path.costs[part])
        first, last = int(path.positions[0]), int(path.positions[-1]) + 1
        # No less than the resampled ones can be, whose sums saturate.
        statistic = max(cost, np.iinfo(np.int16).min) / engine.problem.scale
        p, method = self._p_value(first, last, statistic)
        at = characters(self.encoding, first, last)
        return Span(
            start=first,
            stop=last,
            char_start=None if at is None else at[0],
            char_stop=None if at is None else at[1],
            p_value=p,
            statistic=statistic,
            shift=int(path.rows[0]),
            method=method,
            alignment=path,
        )

    def _p_value(self, first: int, last: int, statistic: float) -> tuple[float, str]:
        """(p, method) of the passage of tokens first .. last - 1."""
        detector = self.detector
        if detector.watermark.key.fair:
            passage, whole = self.whole.cut(first, last), self.whole.lengths
            (log_g,) = log_segment_bound(detector.engine, detector.costs, passage, whole).tolist()
            if log_g <= math.log(self.epsilon):
                return bound_value(log_g), "bound"
        hits = int(np.searchsorted(self.null, statistic, side="right"))
        if not len(self.null):
            return 1.0, "permutation"
        return min(1.0, (1 + hits) / (len(self.null) + 1) + self.epsilon), "permutation"


def _best_part(costs: list[int], drop: float) -> tuple[slice, int]:
    """The part with the least sum, and that sum, among those that nowhere lose more than `drop` of what they gained."""
    best, part = 0, slice(0, 0)
    total = least = first = 0
    for i, cost in enumerate(costs):
        total += cost
        if total < least:
            least = total
            if least < best:
                best, part = least, slice(first, i + 1)
        elif total >= 0 or total > least + drop:
            total, least, first = 0, 0, i + 1
    return part, best


def _encoding(detector: Detector, text: Any) -> Any:
    """What `characters` needs of a text, or None."""
    if not isinstance(text, str):
        return None
    encodings = getattr(detector.tokenizer(text, add_special_tokens=False), "encodings", None)
    return encodings[0] if encodings else None
