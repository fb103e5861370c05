"""p at every prefix length of a text, from one pass: how many tokens until the watermark shows?"""

from dataclasses import dataclass

import numpy as np

from wmcore.checks import memory_error, whole_number
from wmcore.detect import Detector, checked_detector
from wmcore.errors import WatermarkError
from wmcore.kernels.problem import Resamples
from wmcore.plan import MOST
from wmcore.types import TokenIds


@dataclass(frozen=True)
class PrefixCurve:
    """p_value[l] and statistic[l] of the first lengths[l] tokens: float64, float64, int64 [m].

    any_prefix_p_value: one p for all prefixes together, of the test whether some prefix fits the key.
    """

    lengths: np.ndarray
    p_value: np.ndarray
    statistic: np.ndarray
    any_prefix_p_value: float

    def tokens_until(self, level: float) -> int | None:
        """The length of the shortest prefix with p <= level, or None if there is none.

        A choice after the fact: it describes a text, and is no test at that level; `any_prefix_p_value` is one.
        """
        below = np.flatnonzero(self.p_value <= level)
        return int(self.lengths[below[0]]) if below.size else None


def prefix_curve(
    detector: Detector, text: str | TokenIds, *, resamples: int = 999, seed: int | None = None
) -> PrefixCurve:
    """Test every prefix of a text, aligned whole, as `detector.detect` with the same seed would one by one.

    Parameters
    ----------
    detector : Detector
        Without block_length (k = m: the alignment of a text then holds those of its prefixes). Learnt scores have the
        bins of the whole text: a proxy that looks ahead gives a prefix alone others.
    text : sequence of int or str
    resamples : int
        T; all are used (`stop_after=None`).
    seed : int, optional
        As for `Detector.detect`.

    Raises
    ------
    WatermarkError
        If the detector has a block_length, the text cannot be tested, or 4 T m bytes exceed the limit of a table.

    Notes
    -----
    Time: n * m * m cells a resample, without bounds (0.4 ms at n = 256, m = 200), for all m p-values. Memory: 4 T m
    bytes.
    """
    resamples = whole_number("resamples", resamples, 1, MOST)
    engine = checked_detector(detector).engine
    if engine.block_length is not None:
        raise WatermarkError(
            f"block_length is {engine.block_length}, but a prefix curve aligns whole prefixes: "
            "use a Detector with block_length=0"
        )
    batch = detector.read([text])
    if batch.failed:
        raise WatermarkError(batch.failed[0][1])
    texts = engine.pack(batch.arrays)
    m = int(texts.lengths[0])
    too_large = memory_error(
        f"the table of {resamples:,} statistics of each of {m:,} prefixes",
        4 * resamples * m,
        "use fewer resamples or test a shorter text",
    )
    if too_large:
        raise WatermarkError(too_large)
    value = engine.prefixes(texts, detector.costs)
    some = Resamples(detector.seed_key(seed), 0, resamples)
    p_value, any_prefix = _significance(value, engine.null_prefixes(texts, some))
    return PrefixCurve(np.arange(1, m + 1), p_value, engine.units(value), any_prefix)


def _significance(value: np.ndarray, null: np.ndarray) -> tuple[np.ndarray, float]:
    """(p of each prefix: float64 [m], p of all together) from value: int32 [m] and null: int32 [T, m].

    Without a watermark the text's row and those of the resamples are exchangeable. At each prefix every row has a rank
    among all, and rows are compared by their least rank (Westfall and Young 1993, min P). Of 1,000 rows about 20 have
    rank 1 at one prefix or another of 120 tokens, so among equals the greater sum of 1 / rank fits better: of 100 texts
    with a watermark in a tenth of their tokens 92 instead of 14 had p <= 0.01. All rows are treated alike, so the place
    of the text's among them, equals counted against it, is an exact p.
    """
    size = len(null) + 1
    p_value = np.empty(len(value))
    least, inverses = np.full(size, size), np.zeros(size)
    for i, observed in enumerate(value):
        column = np.append(observed, null[:, i])
        rank = np.searchsorted(np.sort(column), column, side="right")
        p_value[i] = rank[0] / size
        least = np.minimum(least, rank)
        inverses += 1 / rank
    as_good = (least < least[0]) | ((least == least[0]) & (inverses >= inverses[0]))
    return p_value, float(as_good.sum() / size)
