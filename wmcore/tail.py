"""A proven upper bound of p from the statistic alone, for texts so strongly watermarked that resamples cannot tell.

An alignment that matches r of k tokens picks a set of r cells, each in a row and at a position of its own; its cost is
the sum of r independent token costs plus gamma for each of 2 (k - r) gaps. With M_i(t) >= E exp(-t c) for the cost c
of token i, e_r their elementary symmetric sums, and C(k, r) ways to choose the rows,

    E[sum over sets of exp(-t cost)] <= S(t) = sum over r of C(k, r) e_r(M) exp(-2 t gamma (k - r)),

and by Markov's inequality P(a window fits as well as x) <= S(t) exp(t x), for any t. Without edits r = k only. With
them e_r(M) <= C(k, r) mean(M)**r (Maclaurin), which costs 0.1 to 0.4 decades of p and saves O(k**2) steps. A union
bound over all windows and blocks, and the least over a fixed grid of t, give a number G(x) >= P(phi <= x), so that
G(phi) is a valid p-value (over the draw of the key; of exp, of its given its permutation). This asks for k <= n: a row
is then met once.

M(t) and the grid of t are the token cost's (`schemes.TokenCost`). Rounding to integers moves a token cost by less than
`_ROUNDED` units, which is added to the statistic. Two costs are known better.

*its, given its permutation.* A token of eta x units has the cost abs(U - x), U uniform on 0 .. N - 1, N = 65536:
exactly, so that nothing is added for rounding. Hence N M(t) = (q - q**(x + 1) + 1 - q**(N - x)) / (1 - q) for
q = exp(-t / N), largest at x = N / 2, which is M(t) where no eta are given. Of several blocks, that with the largest
sum of log M (with edits, mean of M) stands for all.

*exp without edits.* -c is X = -log(V) of a uniform V, an exponential variable, but for rounding and for the midpoint of
the cell of 2**-32 that takes the place of V. The cell j (V from j to j + 1 cells) makes it larger by at most
log((j + 1) / (j + 1/2)): by `_CELL` at most where V >= 2**-22, and by log(2) in the last cells. Let r tokens of k be in
those. They have X > 22 log(2) =: l, beyond which X is l plus an exponential variable again, so that with Q(y) =
P(Gamma(k) >= y)

    P(sum of -c >= y + k _CELL) <= sum over r of C(k, r) 2**(-22 r) Q(y - r (l + log(2)))
                                <= Q(y) (1 + 2**-22 exp(h (l + log(2))))**k,

h being the hazard rate of the Gamma law at y, which grows with y, so that Q(y - z) <= Q(y) exp(h z). (The published
code's uniforms are multiples of 2**-24, the upper ends of cells: -c is then at most X.) Markov's bound, for which the
midpoints do no harm, is kept where it is less: both bound the same probability.
"""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from wmcore.kernels.constants import ITS_SCALE
from wmcore.kernels.problem import EDIT, EXP, PLAIN
from wmcore.schemes import ITS_COST, TokenCost
from wmcore.statistic import Statistic

_ROUNDED = {
    EXP: 0.6
}  # units, by cost; half a unit, and the float32 steps of `kernels/cpu/costs.py`
_ROUNDED_ELSE = 2.0
_LAST = 22 * math.log(2)
_CELL = math.log(2049 / 2048)
_PER_BIN = 64  # units of eta that share a bound of M
_ROUNDING = 1e-9  # more than float64 loses in the logarithm of a sum


def log_bound(
    statistic: Statistic,
    key_length: int,
    value: np.ndarray,
    lengths: np.ndarray,
    etas: Sequence[np.ndarray] | None = None,
) -> np.ndarray:
    """log G(phi) of texts, float64 [N], at most 0.0; 0.0 also where no bound is known.

    value: float64 [N], phi in the cost's unit; lengths: int64 [N], tokens of each text; etas: of each text, of each
    token, as `CostSource.etas` gives them (ranked costs alone; without, the worst there are).
    """
    k = np.asarray(lengths, np.int64)
    if statistic.block_length is not None:
        k = np.full_like(k, statistic.block_length)
    log_windows = np.log(key_length * (lengths - k + 1.0))
    cost = statistic.scheme.cost
    rounded = 0.0 if etas is not None else _ROUNDED.get(cost.code, _ROUNDED_ELSE)
    x = value + k * rounded / cost.scale
    found = np.zeros(len(k))
    for size in np.unique(k[k <= key_length]).tolist():
        these = np.flatnonzero(k == size)
        problem = statistic.problem(1, 1, 1).of_block(size)
        if problem.alignment not in (PLAIN, EDIT):
            continue
        some = [None] if etas is None else [etas[i] for i in these.tolist()]
        log_sums = np.array([_log_product(cost, size, eta) for eta in some])
        least = _least(cost, log_sums, x[these]) + log_windows[these]
        if problem.alignment == EDIT:
            gap = problem.gamma / cost.scale
            log_m = np.array([_log_mean(cost, size, eta) for eta in some])
            # The sum with gaps is no less than either of these two: where they decide nothing, it does not.
            less = 2 * size * np.logaddexp(log_m / 2, -cost.tilts * gap) - math.log(size + 1)
            least = np.maximum(least, _least(cost, less, x[these]) + log_windows[these])
            these, log_m = these[least < 0], log_m if etas is None else log_m[least < 0]
            if not len(these):
                continue
            log_sums = np.array([_log_sum_with_gaps(cost, size, gap, one) for one in log_m])
            least = _least(cost, log_sums, x[these]) + log_windows[these]
        elif problem.alignment == PLAIN and cost.code == EXP:
            least = np.minimum(least, _log_gamma_tail(size, -x[these]) + log_windows[these])
        found[these] = np.minimum(0.0, least + _ROUNDING)
    return found


def _least(cost: TokenCost, log_sums: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The least over the grid of t of log S(t) + t x: float64 [N]. log_sums: float64 [N or 1, G]."""
    return np.min(log_sums + cost.tilts * x[:, None], axis=1)


def _log_product(cost: TokenCost, k: int, eta: np.ndarray | None) -> np.ndarray:
    """log of the product of k tokens' M(t), the largest of all blocks: float64 [G]."""
    if eta is None:
        return k * cost.log_mgf(cost.tilts)
    return _of_blocks(_its_mgf()[1], eta, k)


def _log_mean(cost: TokenCost, k: int, eta: np.ndarray | None) -> np.ndarray:
    """log of the mean of k tokens' M(t), the largest of all blocks: float64 [G]."""
    if eta is None:
        return cost.log_mgf(cost.tilts)
    return np.log(_of_blocks(_its_mgf()[0], eta, k) / k)


def _log_sum_with_gaps(cost: TokenCost, k: int, gap: float, log_m: np.ndarray) -> np.ndarray:
    """log S(t) with gaps where M(t) is that of each of k tokens, or their mean: float64 [G]."""
    from scipy.special import gammaln, logsumexp

    r = np.arange(k + 1)[:, None]
    ways = 2 * (gammaln(k + 1) - gammaln(r + 1) - gammaln(k - r + 1))
    return logsumexp(ways + r * log_m - 2 * cost.tilts * gap * (k - r), axis=0)


def _of_blocks(table: np.ndarray, eta: np.ndarray, k: int) -> np.ndarray:
    """The largest sum of k neighbours of the rows of a table that eta picks: float64 [G]."""
    bins = eta // _PER_BIN
    if len(bins) == k:
        return table[bins].sum(axis=0)
    largest = []
    for column in table.T:  # one at a time: such texts may be very long
        sums = np.concatenate([[0.0], np.cumsum(column[bins])])
        largest.append((sums[k:] - sums[:-k]).max())
    return np.array(largest)


@cache
def _its_mgf() -> tuple[np.ndarray, np.ndarray]:
    """M(t) of an its cost, the largest in each bin of eta, and its logarithm: float64 [B, G] each."""
    first = np.arange(0, ITS_SCALE + 1, _PER_BIN)
    last = np.minimum(first + _PER_BIN - 1, ITS_SCALE)
    x = np.clip(ITS_SCALE // 2, first, last)[:, None]  # M grows up to the middle, then falls
    log_q = -ITS_COST.tilts / ITS_SCALE
    sums = np.exp(log_q) - np.exp((x + 1) * log_q) - np.expm1((ITS_SCALE - x) * log_q)
    mgf = sums / -np.expm1(log_q) / ITS_SCALE
    return mgf, np.log(mgf)


def _log_gamma_tail(k: int, x: np.ndarray) -> np.ndarray:
    """log of the bound of P(sum of k exp costs <= -x): float64 [N]."""
    y = np.maximum(x - k * _CELL, 1e-9)[:, None]
    i = np.arange(k)
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(i[1:]))])
    terms = i * np.log(y) - log_factorials - y  # Q(y) is the sum of exp(terms)
    top = terms.max(axis=1)
    log_q = np.minimum(0.0, top + np.log(np.exp(terms - top[:, None]).sum(axis=1)))
    hazard = np.exp(terms[:, -1] - log_q)
    last_cells = k * np.log1p(np.exp(hazard * (_LAST + math.log(2)) - _LAST))
    return log_q + last_cells
