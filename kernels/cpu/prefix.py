"""Every prefix of a text at once: with k = m the alignment of a text holds those of all its prefixes.

E[l, l] of a window is the alignment of the first l tokens with the window's first l rows (see `edit.py`), so one
pass over all windows gives the statistic of every prefix.
"""

import numpy as np

from ..constants import NOTHING
from ..problem import EDIT
from .edit import Block, Lanes, edit_lanes
from .jit import njit
from .resample import make_pair, resample_scratch
from .simd import load_i32, splat_i32, store


@njit(nogil=True)
def prefix_statistics(costs, problem, inverse, row, diagonal, out):
    """out[l] = the least alignment of the prefix of l + 1 tokens with any window: int32 [m].

    costs: int32 [U, >= n + 16], rows wrapped, 2 gamma taken off; row: int32 [>= 16 (m + 1)], diagonal: int32 [16 m]:
    scratch.
    """
    flat = costs.reshape(-1)
    width = costs.shape[1]
    n = problem.n
    m = inverse.size
    out[:] = NOTHING
    for tau in range(0, n, 16):
        if problem.alignment == EDIT:
            for j in range(m + 1):
                store(row, j * 16, splat_i32(0))
            block = Block(inverse, 0, m)
            edit_lanes(Lanes(flat, width, 1, n, 0), tau, block, m, row, diagonal)
        else:
            total = splat_i32(0)
            for i in range(m):
                total = total + load_i32(flat, inverse[i] * width + (tau + i) % n)
                store(diagonal, i * 16, total)
        for i in range(m):
            for lane in range(min(16, n - tau)):
                out[i] = min(out[i], diagonal[16 * i + lane])
    for i in range(m):
        out[i] += 2 * problem.gamma * (i + 1)


@njit(nogil=True, cache=True)
def observe_prefixes(costs, problem, inverse, out):
    """`prefix_statistics` of one key, allocating its own scratch."""
    m = inverse.size
    row = np.empty(16 * (m + 1), np.int32)
    prefix_statistics(costs, problem, inverse, row, np.empty(16 * m, np.int32), out)


@njit(nogil=True, cache=True)
def null_prefixes(problem, inverse, n_rows, resamples, out):
    """out[t - first] = the statistic of every prefix under resample t: int32 [stop - first, m].

    resamples: `Resamples`, first even.
    """
    seed_key, first, stop = resamples
    m = inverse.size
    scratch = resample_scratch(problem, n_rows)
    row = np.empty(16 * (m + 1), np.int32)
    diagonal = np.empty(16 * m, np.int32)
    for pair in range(first // 2, (stop + 1) // 2):
        both = make_pair(seed_key, problem, pair, n_rows, scratch)
        for t in range(2 * pair, min(2 * pair + 2, stop)):
            prefix_statistics(both[t % 2], problem, inverse, row, diagonal, out[t - first])
