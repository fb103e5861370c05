"""A proven upper bound of p from the statistic alone, for texts so strongly watermarked that resamples cannot tell.

An alignment that matches r of k tokens picks a set of r cells, each in a row and at a position of its own; its cost is
the sum of r independent token costs plus gamma for each of 2 (k - r) gaps, and there are C(k, r)**2 such sets. So

    E[sum over sets of exp(-t cost)] <= S(t) = sum over r of C(k, r)**2 M(t)**r exp(-2 t gamma (k - r)),

M(t) bounding E exp(-t c) of one token cost, and by Markov's inequality P(a window fits as well as x) <= S(t) exp(t x),
for any t. Without edits r = k only. A union bound over all windows and blocks, and the least over a fixed grid of t,
give a number G(x) >= P(phi <= x), so that G(phi) is a valid p-value (over the draw of the key; of exp, of its given
its permutation). This asks for k <= n: a row is then met once.

M(t) and the grid of t are the token cost's (`schemes.TokenCost`). Rounding to integers moves a token cost by less than
`_SLACK` units, which is added to the statistic.
"""

from functools import lru_cache

import numpy as np

from wmcore.kernels.problem import EDIT
from wmcore.schemes import TokenCost
from wmcore.statistic import Statistic

_SLACK = 2.0


def log_bound(
    statistic: Statistic, key_length: int, value: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """log G(phi) of texts, float64 [N], at most 0.0; 0.0 also where no bound is known.

    value: float64 [N], phi in the cost's unit; lengths: int64 [N], tokens of each text.
    """
    k = np.asarray(lengths, np.int64)
    if statistic.block_length is not None:
        k = np.full_like(k, statistic.block_length)
    if statistic.scheme.alignment.scored:
        return np.zeros(len(k))  # only the e-value
    windows = key_length * (lengths - k + 1.0)
    cost = statistic.scheme.cost
    x = value + k * _SLACK / cost.scale
    found = np.zeros(len(k))
    for size in np.unique(k[k <= key_length]).tolist():
        these = np.flatnonzero(k == size)
        # All tokens matched is one term of the sum with gaps: where that alone decides nothing, the sum does not.
        log_sums = size * cost.log_mgf(cost.tilts)
        least = _least(cost, log_sums, x[these]) + np.log(windows[these])
        if statistic.problem(1, 1, 1).of_block(size).alignment == EDIT:
            these, least = these[least < 0], least[least < 0]
            if len(these):
                log_sums = _log_sums_with_gaps(cost, size, statistic.gap)
                least = _least(cost, log_sums, x[these]) + np.log(windows[these])
        found[these] = np.minimum(0.0, least)
    return found


def _least(cost: TokenCost, log_sums: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The least over the grid of t of log S(t) + t x: float64 [N]."""
    return np.min(log_sums + cost.tilts * x[:, None], axis=1)


@lru_cache(maxsize=4096)
def _log_sums_with_gaps(cost: TokenCost, k: int, gap: float) -> np.ndarray:
    """log S(t) of alignments with gaps: float64 [G]."""
    from scipy.special import gammaln, logsumexp

    r = np.arange(k + 1)[:, None]
    ways = 2 * (gammaln(k + 1) - gammaln(r + 1) - gammaln(k - r + 1))
    log_m = cost.log_mgf(cost.tilts)
    return logsumexp(ways + r * log_m - 2 * cost.tilts * gap * (k - r), axis=0)
