"""p at every prefix length of a text, from one pass: how many tokens until the watermark shows?"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from wmcore.checks import whole_number
from wmcore.detect import Detector
from wmcore.errors import WatermarkError
from wmcore.kernels.problem import Resamples
from wmcore.plan import MOST
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
        Without block_length (k = m: the alignment of a text then holds those of its prefixes).
    text : sequence of int or str
    resamples : int
        T; all are used (`stop_after=None`).
    seed : int, optional

    Raises
    ------
    WatermarkError
        If the detector has a block_length, or the text cannot be tested.

    Notes
    -----
    Time: n * m * m cells a resample, without bounds (0.4 ms at n = 256, m = 200), for all m p-values.
    """
    resamples = whole_number("resamples", resamples, 1, MOST)
    engine = detector.engine
    if engine.block_length is not None:
        raise WatermarkError(
            f"block_length is {engine.block_length}, but a prefix curve aligns whole prefixes: "
            "use a Detector with block_length=0"
        )
    batch = detector.read([text])
    if batch.failed:
        raise WatermarkError(batch.failed[0][1])
    texts = engine.pack(batch.arrays)
    value = engine.prefixes(texts, detector.costs)
    hits = engine.prefix_hits(
        texts, value, Resamples(seed_key(seed, detector.watermark.key.salt), 0, resamples)
    )
    lengths = np.arange(1, len(value) + 1)
    return PrefixCurve(lengths, (1 + hits) / (resamples + 1), engine.units(value))
