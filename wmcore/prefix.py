"""p at every prefix length of a text, from one pass: how many tokens until the watermark shows?"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from wmcore.detect import Detector, check_count
from wmcore.errors import WatermarkError
from wmcore.kernels.packing import pack
from wmcore.significance import seed_key


@dataclass(frozen=True)
class PrefixCurve:
    """p_value[l] and statistic[l] of the first lengths[l] tokens: float64, float64, int64 [m]."""

    lengths: np.ndarray
    p_value: np.ndarray
    statistic: np.ndarray

    def tokens_until(self, level: float) -> int | None:
        """The length of the shortest prefix with p <= level, or None if there is none.

        A choice after the fact: it describes a text, and is no test at that level.
        """
        below = np.flatnonzero(self.p_value <= level)
        return int(self.lengths[below[0]]) if below.size else None


def prefix_curve(
    detector: Detector, text: Any, *, resamples: int = 999, seed: int | None = None
) -> PrefixCurve:
    """Test every prefix of a text, aligned whole, as `detector.detect` with the same seed would one by one.

    Parameters
    ----------
    detector : Detector
        Of a watermark without block_length (k = m: the alignment of a text then holds those of its prefixes).
    text : sequence of int or str
    resamples : int
        T; all are used (`stop_after=None`).
    seed : int, optional

    Raises
    ------
    WatermarkError
        If the watermark has a block_length, or the text cannot be tested.

    Notes
    -----
    Time: n * m * m cells a resample, without bounds (0.4 ms at n = 256, m = 200), for all m p-values.
    """
    check_count("resamples", resamples, 1)
    if detector.watermark.block_length is not None:
        raise WatermarkError(
            f"block_length is {detector.watermark.block_length}, but a prefix curve aligns whole prefixes: "
            "use a watermark with block_length=None"
        )
    arrays, _, failed = detector.read([text])
    if failed:
        raise WatermarkError(failed[0][1])
    problem, engine = detector.watermark.problem, detector.engine
    packed = pack(arrays, None)
    costs, rows = detector.costs.costs(packed.distinct, engine, detector.threads)
    value = engine.observe_prefixes(problem, packed, costs[rows])
    hits = engine.prefix_hits(
        problem, packed, value, seed_key(seed), 0, resamples, detector.threads
    )
    lengths = np.arange(1, len(value) + 1)
    taken_off = problem.offset * lengths if problem.taken_off(len(value)) else 0
    return PrefixCurve(lengths, (1 + hits) / (resamples + 1), (value - taken_off) / problem.scale)
