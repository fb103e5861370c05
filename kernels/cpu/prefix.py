"""Every prefix of a text at once: with k = m the alignment of a text holds those of all its prefixes.

E[l, l] of a window is the alignment of the first l tokens with the window's first l rows (see `edit.py`), so one
pass over all windows gives the statistic of every prefix.
"""

import numpy as np
from numba import njit

from .edit import edit_lanes
from .resample import make_pair, pair_scratch
from .simd import load_i32, splat_i32, store


@njit(nogil=True)
def prefix_statistics(costs, edits, n, inverse, row, diagonal, out):
    """out[l] = the least E[l + 1, l + 1] (or plain cost) of the prefix of l + 1 tokens: int32 [m].

    costs: int32 [U, >= n + 16], rows wrapped, 2 gamma taken off with edits; row: int32 [>= 16 (m + 1)],
    diagonal: int32 [16 m]: scratch.
    """
    flat = costs.reshape(-1)
    width = costs.shape[1]
    m = inverse.size
    out[:] = 2**31 - 1
    for tau in range(0, n, 16):
        if edits:
            for j in range(m + 1):
                store(row, j * 16, splat_i32(0))
            edit_lanes(flat, width, 1, n, 0, tau, inverse, 0, m, m, row, diagonal)
        else:
            total = splat_i32(0)
            for i in range(m):
                total = total + load_i32(flat, inverse[i] * width + (tau + i) % n)
                store(diagonal, i * 16, total)
        for i in range(m):
            for lane in range(min(16, n - tau)):
                out[i] = min(out[i], diagonal[16 * i + lane])


@njit(nogil=True, cache=True)
def observe_prefixes(costs, edits, n, inverse, out):
    """`prefix_statistics` of one key, allocating its own scratch."""
    m = inverse.size
    row = np.empty(16 * (m + 1), np.int32)
    prefix_statistics(costs, edits, n, inverse, row, np.empty(16 * m, np.int32), out)


@njit(nogil=True, cache=True)
def prefix_hits(
    seed_key,
    its,
    edits,
    n,
    gamma,
    vocab_size,
    denominator,
    inverse,
    n_rows,
    value,
    first,
    last,
    hits,
):
    """hits[l] += the number of resamples first .. last - 1 whose statistic of prefix l + 1 is <= value[l].

    value: int32 [m]; hits: int64 [m]; first even.
    """
    m = inverse.size
    resampled = pair_scratch(its, n_rows, n, vocab_size)
    row = np.empty(16 * (m + 1), np.int32)
    diagonal = np.empty(16 * m, np.int32)
    null = np.empty(m, np.int32)
    offset = -2 * gamma if edits else 0
    for pair in range(first // 2, (last + 1) // 2):
        both = make_pair(seed_key, its, pair, n_rows, n, vocab_size, denominator, offset, resampled)
        for half in range(2):
            if 2 * pair + half >= last:
                continue
            prefix_statistics(both[half], edits, n, inverse, row, diagonal, null)
            for i in range(m):
                hits[i] += null[i] <= value[i]
