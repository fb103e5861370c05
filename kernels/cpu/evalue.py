"""An e-value over all edit paths: its mean is at most 1 by chance, so p = min(1, 1 / E) is a p-value without resamples.

A path starts at a key row and gives each token of a text either the next row (after leaving out some, a jump) or none
(an insertion). E is the sum over paths of prior(path) times the product over its matches of f(u), f(u) = (1 - t) (1 -
u)**-t, whose mean is 1 for a uniform u. If no path meets a row twice, a path's product has mean 1, so E has mean at
most 1, and Markov's inequality gives p. Rows are not reused here: starts come in `BLOCKS` blocks of neighbours, and the
paths of a block stay within the n rows from its first start on, without going round.

The forward recursion, F(j) the sum over paths whose next row is j, for each token:

    G(j) = [(1 - jump - insertion) F(j) + jump (1 - run) (F(j - 1) + run F(j - 2) + ...)] f(u_j),
    F(j) = G(j - 1) + insertion F(j).
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from ..constants import EXP_COST_MIN, EXP_SCALE
from .jit import njit

BLOCKS = 8
"""Blocks of starts. More would give the last start of a block more rows, at a higher price."""


class Prior(NamedTuple):
    """Chances per token of a jump and of an insertion, of one more row in a jump, and the tilt t of f."""

    jump: float = 0.02
    insertion: float = 0.02
    run: float = 0.3
    tilt: float = 0.4


@cache
def factors(tilt: float) -> np.ndarray:
    """f by token cost: float64, item i for an exp cost of -i units, one unit short: rounding never raises E."""
    short = np.maximum(np.arange(1 - EXP_COST_MIN) - 1, -1)
    return (1 - tilt) * np.exp(tilt * short / EXP_SCALE)


@njit(nogil=True)
def _log_e(f, inverse, prior, state):
    """log E of one text. f: float64 [U, n]; inverse: int64 [m]; state: float64 [n + 1, BLOCKS], scratch."""
    n = f.shape[1]
    stay = 1.0 - prior.jump - prior.insertion
    jump = prior.jump * (1.0 - prior.run)
    behind = np.zeros(BLOCKS)  # what may jump here
    matched = np.zeros(BLOCKS)  # G of the row before
    state[:] = 0.0
    for lane in range(BLOCKS):
        first, last = lane * n // BLOCKS, (lane + 1) * n // BLOCKS
        state[: last - first, lane] = 1.0 / n
    log_e = 0.0
    scale = 1.0
    for token in range(inverse.size):
        row = f[inverse[token]]
        behind[:] = 0.0
        matched[:] = 0.0
        total = 0.0
        for i in range(n):
            for lane in range(BLOCKS):  # hot loop
                at = lane * n // BLOCKS + i
                at = at - n if at >= n else at
                here = state[i, lane] * scale
                found = (stay * here + jump * behind[lane]) * row[at]
                behind[lane] = here + prior.run * behind[lane]
                new = matched[lane] + prior.insertion * here
                state[i, lane] = new
                total += new
                matched[lane] = found
        for lane in range(BLOCKS):
            state[n, lane] = matched[lane] + prior.insertion * state[n, lane] * scale
            total += state[n, lane]
        log_e += np.log(total)
        scale = 1.0 / total
    return log_e


@njit(nogil=True)
def log_e_of(f, inverse, prior):
    """log E of a text. f: float64 [U, n]; inverse: int64 [m].

    A text of more than n tokens is cut into windows of n that overlap by half, whose E are averaged.
    """
    n, m = f.shape[1], inverse.size
    state = np.empty((n + 1, BLOCKS))
    half = max(n // 2, 1)
    windows = 1 + max(0, (m - n + half - 1) // half)
    logs = np.empty(windows)
    for w in range(windows):
        start = max(0, min(w * half, m - n))
        logs[w] = _log_e(f, inverse[start : start + n], prior, state)
    top = logs.max()
    return top + np.log(np.exp(logs - top).mean())


@njit(nogil=True, cache=True)
def log_evalues(costs, n, texts, members, table, prior, out):
    """out[a] = log E of the member texts (int64): float64 [N].

    costs: `CostTable` of exp costs, on the host; table: `factors`.
    """
    for a in members:
        first, rows = texts.distinct_offsets[a], texts.distinct_offsets[a + 1]
        f = np.empty((rows - first, n))
        for i in range(rows - first):
            row = costs.source[first + i]
            for j in range(n):
                f[i, j] = table[-costs.matrix[row, j]]
        out[a] = log_e_of(f, texts.inverse[texts.offsets[a] : texts.offsets[a + 1]], prior)
