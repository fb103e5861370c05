"""Plain alignment: a block against a key window token by token, no edits.

The cost of block b at window tau is the sum of cost[y[b + l], tau + l]. Along a diagonal (b + 1, tau + 1) it
changes by one token at each end, so all windows of all blocks take about 2 m n additions whatever k is.
Lanes are sixteen neighbouring diagonals of one key.
"""

import numpy as np

from ..constants import NOTHING
from .jit import njit
from .simd import less_equal_mask, load_i32, splat_i32, store


@njit(nogil=True)
def plain_search(costs, n, inverse, k, best, decide, lanes):
    """(value, block, tau) of the least cost that is <= best, or (NOTHING, -1, -1).

    costs: int32 [U, >= n + 16], rows wrapped; lanes: int32 [16], scratch. Among equal values the first block,
    then the first window, wins. With decide, return at the first value <= best that is found.
    """
    flat = costs.reshape(-1)
    width = costs.shape[1]
    value, block, tau = np.int32(NOTHING), -1, -1
    for start in range(0, n, 16):
        count = min(16, n - start)
        total = splat_i32(0)
        p = start
        for i in range(k):  # hot loop
            total = total + load_i32(flat, inverse[i] * width + p)
            p = p + 1 if p + 1 < n else 0
        out = start
        for b in range(inverse.size - k + 1):
            if b > 0:
                total = total - load_i32(flat, inverse[b - 1] * width + out)
                total = total + load_i32(flat, inverse[b + k - 1] * width + p)
                p = p + 1 if p + 1 < n else 0
                out = out + 1 if out + 1 < n else 0
            if less_equal_mask(total, splat_i32(best)):
                store(lanes, 0, total)
                for lane in range(count):
                    found = lanes[lane]
                    at = (start + b + lane) % n
                    if (found < value and found <= best) or (
                        found == value and (b < block or (b == block and at < tau))
                    ):
                        value, block, tau = found, b, at
                        best = found
                if decide and block >= 0:
                    return value, block, tau
    return value, block, tau


@njit(nogil=True, cache=True)
def plain_all(costs, n, inverse, k, out):
    """out[b, tau] = cost of block b at window tau: all of them, int32 [m - k + 1, n]."""
    flat = costs.reshape(-1)
    width = costs.shape[1]
    lanes = np.empty(16, np.int32)
    for start in range(0, n, 16):
        for b in range(inverse.size - k + 1):
            total = splat_i32(0)
            for i in range(k):
                total = total + load_i32(flat, inverse[b + i] * width + (start + i) % n)
            store(lanes, 0, total)
            for lane in range(min(16, n - start)):
                out[b, start + lane] = lanes[lane]
