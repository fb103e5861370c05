"""A proven upper bound of p from the statistic alone, for texts so strongly watermarked that resamples cannot tell.

An alignment that matches r of k tokens picks a set of r cells, each in a row and at a position of its own; its cost is
the sum of r independent token costs plus gamma for each of 2 (k - r) gaps, and there are C(k, r)**2 such sets. So

    E[sum over sets of exp(-t cost)] <= S(t) = sum over r of C(k, r)**2 M(t)**r exp(-2 t gamma (k - r)),

M(t) bounding E exp(-t c) of one token cost, and by Markov's inequality P(a window fits as well as x) <= S(t) exp(t x),
for any t. Without edits r = k only. A union bound over all windows and blocks, and the least over a fixed grid of t,
give a number G(x) >= P(phi <= x), so that G(phi) is a valid p-value (over the draw of the key; of exp, of its given
its permutation). This asks for k <= n: a row is then met once.

exp costs are log of a uniform: M(t) = 1 / (1 - t), t < 1 (the key's uniforms are midpoints of equal cells, and by
convexity their mean is no larger). its costs are abs(u - eta): M(t) <= (2 / t)(1 - exp(-t / 2)), that of eta = 1/2.
Rounding to integers moves a token cost by less than `_SLACK` units, which is added to the statistic.
"""

from functools import lru_cache

import numpy as np

from wmcore.detect import Detection
from wmcore.key import PublishedKey
from wmcore.watermark import Watermark

_SLACK = 2.0
_GRID_EXP = np.concatenate([np.linspace(0.2, 0.95, 31), 1 - np.geomspace(0.04, 0.002, 12)])
_GRID_ITS = np.geomspace(2.0, 400.0, 48)


def log_bound(watermark: Watermark, detection: Detection) -> float:
    """log G(phi) of a detection, at most 0.0; 0.0 also where no bound is known."""
    m = detection.length or 0
    k = watermark.block_length or m
    n = watermark.key_length
    if k > n or detection.statistic is None or not _uniform_is_fair(watermark):
        return 0.0
    problem = watermark.problem
    edits = problem.edits and not problem.gaps_useless(k)
    x = detection.statistic + k * _SLACK / problem.scale
    grid, log_sums = _log_sums(watermark.its, edits, k, watermark.gap)
    return min(0.0, float(np.min(log_sums + grid * x) + np.log(n * (m - k + 1.0))))


def _uniform_is_fair(watermark: Watermark) -> bool:
    """Whether the bound's uniform numbers are the key's (those of the demo's generator are rounded up to float32)."""
    return not (isinstance(watermark.key, PublishedKey) and watermark.key.generator == "mersenne")


@lru_cache(maxsize=4096)
def _log_sums(its: bool, edits: bool, k: int, gap: float) -> tuple[np.ndarray, np.ndarray]:
    """(grid of t, log S(t)): float64 [G] each."""
    from scipy.special import gammaln, logsumexp

    if its:
        grid = _GRID_ITS
        log_m = np.log(2 / grid * -np.expm1(-grid / 2))
    else:
        grid = _GRID_EXP
        log_m = -np.log1p(-grid)
    if not edits:
        return grid, k * log_m
    r = np.arange(k + 1)[:, None]
    ways = 2 * (gammaln(k + 1) - gammaln(r + 1) - gammaln(k - r + 1))
    return grid, logsumexp(ways + r * log_m - 2 * grid * gap * (k - r), axis=0)
