"""The test statistic of one key: the least alignment over all blocks and key windows, with edits by branch and bound.

Windows form a tree: a node splits into sixteen neighbouring super-windows, bounded together (one in each lane,
`super_windows`), down to leaves of at most sixteen windows, aligned exactly (`edit_windows`). A node is skipped
only if its bound exceeds the best value so far, so the result is the one that brute force gives.
"""

import numpy as np

from ..constants import NOTHING
from ..problem import EDIT
from .costs import wrap
from .edit import Block, edit_all, edit_windows, interleave, interleaved_lanes, super_windows
from .jit import njit
from .memory import aligned_i32
from .plain import plain_all, plain_search


@njit(nogil=True)
def search_scratch(problem, n_rows, k):
    """Scratch arrays for `search` on cost matrices of at most n_rows rows and blocks of at most k tokens."""
    span = problem.n if problem.alignment == EDIT else 1
    size = 16
    row = 16 * (k + 1)
    while span > 16:
        span = (span + 15) // 16
        length = span + k - 1
        size += (n_rows * span + 16) * interleaved_lanes(span, length)
        row = max(row, 16 * (length + 1))
    return (
        aligned_i32(row),
        aligned_i32(size),
        np.empty(16, np.int64),
        np.empty((128, 4), np.int64),
        np.empty(8, np.int64),
    )


@njit(nogil=True)
def search(costs, problem, inverse, k, best, decide, scratch):
    """(value, block, tau) of the least alignment that is <= best, or (NOTHING, -1, -1).

    costs: int32 [U, >= n + 16], 2 gamma taken off, rows wrapped; the value lacks 2 gamma k, too. Among equal values
    the first block, then the first window, wins. With decide, return at the first value <= best that is found.
    """
    if problem.alignment == EDIT:
        return edit_search(costs, problem, inverse, k, best, decide, scratch)
    return plain_search(costs, problem.n, inverse, k, best, decide, scratch[0])


@njit(nogil=True)
def _push_children(row, level, lo, span, end, best, stack, top):
    """Push the children of a node that may hold a value <= best, the least bound last (to be looked at first)."""
    base = top
    for lane in range(16):
        start = lo + lane * span
        bound = row[lane]
        if start >= end or bound > best:
            continue
        at = top
        while at > base and stack[at - 1, 3] < bound:
            for column in range(4):
                stack[at, column] = stack[at - 1, column]
            at -= 1
        stack[at, 0] = level
        stack[at, 1] = start
        stack[at, 2] = min(start + span, end)
        stack[at, 3] = bound
        top += 1
    return top


@njit(nogil=True)
def edit_search(costs, problem, inverse, k, best, decide, scratch):
    """`search` of edit alignments."""
    n, gamma = problem.n, problem.gamma
    row, tree, offsets, stack, built = scratch
    value, block, tau = np.int32(NOTHING), -1, -1
    built[:] = -1
    for b in range(inverse.size - k + 1):
        stack[0, 0] = 0
        stack[0, 1] = 0
        stack[0, 2] = n
        stack[0, 3] = -NOTHING
        top = 1
        while top > 0:
            top -= 1
            level = stack[top, 0]
            lo = stack[top, 1]
            end = stack[top, 2]
            if stack[top, 3] > best:
                continue
            if end - lo <= 16:
                edit_windows(costs, n, Block(inverse, b, k), lo, row)
                for lane in range(end - lo):
                    found = row[lane]
                    if (found < value and found <= best) or (
                        found == value and b == block and lo + lane < tau
                    ):
                        value, block, tau = found, b, lo + lane
                        best = found
                if decide and block >= 0:
                    return value, block, tau
                continue
            span, base = n, 0
            for _ in range(level + 1):
                if span < n:
                    base += (costs.shape[0] * span + 16) * interleaved_lanes(span, span + k - 1)
                span = (span + 15) // 16
            lanes = interleaved_lanes(span, span + k - 1)
            if built[level] != lo:
                interleave(costs, n, lo, span, lanes, offsets, tree[base:])
                built[level] = lo
            super_windows(tree[base:], lanes, span, Block(inverse, b, k), gamma, row)
            top = _push_children(row, level + 1, lo, span, end, best, stack, top)
    return value, block, tau


@njit(nogil=True, cache=True)
def align_all(matrix, problem, inverse, k, out):
    """out[b, tau] = the cost of block b with window tau, all of them: int32 [m - k + 1, n]. matrix: int32 [U, n]."""
    n = problem.n
    costs = np.empty((matrix.shape[0], n + 16), np.int32)
    for i in range(matrix.shape[0]):
        for j in range(n):
            costs[i, j] = matrix[i, j] - 2 * problem.gamma
    wrap(n, costs)
    if problem.alignment == EDIT:
        edit_all(costs, n, inverse, k, np.empty(16 * (k + 1), np.int32), out)
    else:
        plain_all(costs, n, inverse, k, out)
    for b in range(out.shape[0]):
        for tau in range(n):
            out[b, tau] += 2 * problem.gamma * k
