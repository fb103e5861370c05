"""Edit alignment of a text block with key windows, independent alignments in SIMD lanes.

The recurrence (paper, Definition 4 and section 2.3) for one window is

    D[i, j] = min(min(D[i-1, j], D[i, j-1]) + gamma, D[i-1, j-1] + cost[i, j]),  D[i, 0] = i gamma,  D[0, j] = j gamma.

With E[i, j] = D[i, j] - gamma (i + j) the gap cost moves into the match: E = min(up, left, diagonal + cost - 2 gamma)
with a border of zeros. Every matrix of costs below already has 2 gamma taken off, so the kernel needs three
operations a cell whatever gamma is, and D[k, L] = E[k, L] + gamma (k + L). Only `null.py` and `prefix.py` turn one
into the other: what they are given and what they give is D.
"""

from typing import NamedTuple

import numpy as np

from .jit import njit
from .simd import load_i32, minimum, splat_i32, store, transpose_16


class Block(NamedTuple):
    """Tokens inverse[first : first + k] of a text: which row of costs each has. inverse: int64 [m]."""

    inverse: np.ndarray
    first: int
    k: int


class Lanes(NamedTuple):
    """Costs of sixteen alignments, lanes next to each other.

    Token row r meets position p of the key at costs[r * row_stride + (p // period) * period_stride + (p % period) *
    column_stride]. With one key, period = n and column_stride = 1: lanes are neighbouring windows. In the interleaved
    copy (`interleave`), lanes are windows (or super-windows) that lie `period` apart.
    """

    costs: np.ndarray
    row_stride: int
    column_stride: int
    period: int
    period_stride: int


@njit(nogil=True, inline="always")  # called with records, it is 8 % slower
def edit_lanes(lanes, start, block, length, row, diagonal_out):
    """E[k, 1 .. length] of sixteen alignments that start at key position `start`.

    row: int32, >= 16 * (length + 1), scratch and border. On entry row[0 .. length] holds E[0, .]; on return E[k, .].
    diagonal_out: None, or int32 [16 * k] for E[i, i], i = 1 .. k (needs length >= k).
    """
    costs, row_stride, column_stride, period, period_stride = lanes
    inverse, first, k = block
    zero = splat_i32(0)
    i = 0
    while i < k:
        four = i + 4 <= k
        r0 = inverse[first + i] * row_stride
        r1 = inverse[first + i + 1] * row_stride if four else 0
        r2 = inverse[first + i + 2] * row_stride if four else 0
        r3 = inverse[first + i + 3] * row_stride if four else 0
        diagonal = load_i32(row, 0)
        store(row, 0, zero)
        left0, left1, left2, left3 = zero, zero, zero, zero
        j = 1
        p = start % period
        base = (start // period) * period_stride
        while j <= length:
            run = min(length - j + 1, period - p)
            if diagonal_out is not None:  # stop at each cell of the diagonal
                run = min(run, _to_diagonal(i, j, run))
            offset = base + p * column_stride
            if four:
                for s in range(j, j + run):  # hot loop
                    up = load_i32(row, s * 16)
                    new0 = minimum(minimum(diagonal + load_i32(costs, r0 + offset), left0), up)
                    new1 = minimum(minimum(left0 + load_i32(costs, r1 + offset), left1), new0)
                    new2 = minimum(minimum(left1 + load_i32(costs, r2 + offset), left2), new1)
                    new3 = minimum(minimum(left2 + load_i32(costs, r3 + offset), left3), new2)
                    store(row, s * 16, new3)
                    diagonal, left0, left1, left2, left3 = up, new0, new1, new2, new3
                    offset += column_stride
            else:
                for s in range(j, j + run):
                    up = load_i32(row, s * 16)
                    left0 = minimum(minimum(diagonal + load_i32(costs, r0 + offset), left0), up)
                    store(row, s * 16, left0)
                    diagonal = up
                    offset += column_stride
            if diagonal_out is not None:
                if j == i + 1:
                    store(diagonal_out, i * 16, left0)
                elif four and j == i + 2:
                    store(diagonal_out, (i + 1) * 16, left1)
                elif four and j == i + 3:
                    store(diagonal_out, (i + 2) * 16, left2)
                elif four and j == i + 4:
                    store(diagonal_out, (i + 3) * 16, left3)
            j += run
            p += run
            if p == period:
                p = 0
                base += period_stride
        i += 4 if four else 1


@njit(nogil=True)
def _to_diagonal(i, j, run):
    """Columns from j on that may be walked at once: up to the next cell of the diagonal of rows i + 1 .. i + 4."""
    if i < j <= i + 4:
        return 1
    return i + 1 - j if j <= i else run


@njit(nogil=True)
def edit_windows(costs, n, block, tau, row):
    """E[k, k] of the windows tau .. tau + 15 (int32, first 16 of row). costs: int32 [U, width], rows wrapped."""
    zero = splat_i32(0)
    for j in range(block.k + 1):
        store(row, j * 16, zero)
    edit_lanes(Lanes(costs.reshape(-1), costs.shape[1], 1, n, 0), tau, block, block.k, row, None)
    store(row, 0, load_i32(row, block.k * 16))


@njit(nogil=True)
def interleaved_lanes(span, length):
    """How many lanes `interleave` keeps: 16 and those that `length` steps run into, a multiple of 16."""
    return 16 * (2 + (length - 1) // span // 16)


@njit(nogil=True)
def interleave(costs, n, lo, span, lanes, offsets, out):
    """out[i, s, e] = costs[i, (lo + e * span + s) mod n]: lane e holds the keys from lo + e * span on.

    costs: int32 [U, width], rows wrapped; out: flat int32, >= (U * span + 16) * lanes; offsets: int64 [16], scratch.
    """
    flat = costs.reshape(-1)
    width = costs.shape[1]
    for i in range(costs.shape[0]):
        for s in range(0, span, 16):  # what is past the span is overwritten later
            for e in range(0, lanes, 16):
                for r in range(16):
                    offsets[r] = i * width + (lo + (e + r) * span + s) % n
                transpose_16(flat, offsets, out, (i * span + s) * lanes + e, lanes)


@njit(nogil=True)
def super_windows(interleaved, lanes, span, block, gamma, row):
    """Lower bounds of E[k, k] over sixteen super-windows of `span` neighbouring windows each (first 16 of row).

    One alignment with free ends in the key: it may start and stop anywhere in the span + k - 1 rows that the
    windows of a super-window cover, so it is at most the least of theirs.
    """
    k = block.k
    length = span + k - 1
    for j in range(length + 1):
        store(row, j * 16, splat_i32(-gamma * j))
    edit_lanes(Lanes(interleaved, span * lanes, lanes, span, 1), 0, block, length, row, None)
    best = load_i32(row, length * 16) + splat_i32(gamma * (length - k))
    if gamma > 0:
        for j in range(length):
            best = minimum(best, load_i32(row, j * 16) + splat_i32(gamma * (j - k)))
    store(row, 0, best)


@njit(nogil=True, cache=True)
def edit_all(costs, n, inverse, k, row, out):
    """out[b, tau] = E[k, k] of block b with window tau: all of them, int32 [m - k + 1, n]. Nothing is skipped."""
    for b in range(inverse.size - k + 1):
        for tau in range(0, n, 16):
            edit_windows(costs, n, Block(inverse, b, k), tau, row)
            for lane in range(min(16, n - tau)):
                out[b, tau + lane] = row[lane]
