"""Which key row each token of a block met in its best alignment with one window."""

import numpy as np

from .jit import njit


@njit(nogil=True, cache=True)
def edit_path(costs, problem, inverse, tau, out):
    """out[l] = the key row (0 .. n - 1) that token l is matched with, or -1 where it is a gap; returns the cost.

    costs: int32 [U, >= n], nothing taken off; inverse: int64 [k]; out: int64 [k]. Memory: k * k bytes. Matches win
    ties, so that as many tokens as possible have a row.
    """
    n, gamma, k = problem.n, problem.gamma, inverse.size
    came = np.empty((k + 1, k + 1), np.int8)  # 0: match, 1: the token is a gap, 2: the row is one
    value = np.empty(k + 1, np.int64)
    for j in range(k + 1):
        value[j] = gamma * j
        came[0, j] = 2
    for i in range(1, k + 1):
        diagonal = value[0]
        value[0] = gamma * i
        came[i, 0] = 1
        for j in range(1, k + 1):
            match = diagonal + costs[inverse[i - 1], (tau + j - 1) % n]
            up = value[j] + gamma
            left = value[j - 1] + gamma
            diagonal = value[j]
            best, how = match, 0
            if up < best:
                best, how = up, 1
            if left < best:
                best, how = left, 2
            value[j] = best
            came[i, j] = how
    i, j = k, k
    while i > 0 or j > 0:
        how = came[i, j]
        if how == 0:
            i -= 1
            j -= 1
            out[i] = (tau + j) % n
        elif how == 1:
            i -= 1
            out[i] = -1
        else:
            j -= 1
    return value[k]
