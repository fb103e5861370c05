"""The published code's own arithmetic: its two samplers, and the alignment of one pair in float32.

Other kernels draw from key words; these take the numbers themselves, as code that was written against the
published functions passes them around.
"""

import numpy as np

from .jit import njit


@njit(nogil=True, cache=True)
def exp_pick(probs, pi, xi, out):
    """out[b] = the place i of the greatest xi[b, i] ** (1 / p), p = probs[b, pi[b, i]]; -1 without a distribution.

    probs: float32 [B, V]; pi: int64 [B, W]; xi: float32 [B, W], below 1; out: int64 [B]. The least -log(xi) / p in
    float64; -log(xi) >= 1 - xi, so most places need no logarithm.
    """
    for b in range(probs.shape[0]):
        best = np.inf
        at = -1
        for i in range(pi.shape[1]):  # hot loop
            p = np.float64(probs[b, pi[b, i]])
            u = np.float64(xi[b, i])
            if not 1.0 - u < best * p:
                continue
            score = -np.log(u) / p if u > 0.0 else np.inf
            if score < best:
                best = score
                at = i
        out[b] = at


@njit(nogil=True, cache=True)
def its_pick(probs, pi, xi, out):
    """out[b] = pi[b, r] of the first rank r at which the CDF in order pi reaches xi[b]; -1 without a distribution.

    probs: float32 [B, V]; pi: int64 [B, W]; xi: float32 [B]; out: int64 [B]. The CDF is summed in float64 and
    rounded to float32 at each rank, as torch.cumsum does on a CPU. A u above the whole sum takes the last rank
    with a probability.
    """
    for b in range(probs.shape[0]):
        total = 0.0
        out[b] = -1
        for r in range(pi.shape[1]):  # hot loop
            p = probs[b, pi[b, r]]
            total += np.float64(p)
            if p > 0.0:
                out[b] = pi[b, r]
            if np.float32(total) >= xi[b]:
                out[b] = pi[b, r] if total > 0.0 or xi[b] == 0.0 else -1
                break
        if not np.isfinite(total):
            out[b] = -1


@njit(nogil=True, cache=True)
def edit_pair(costs, gamma, row):
    """The edit alignment of all rows with all columns of costs, float32 [k, L], in float32.

    gamma: float32; row: float32 [L + 1], scratch. Every sum is rounded as in the published routine.
    """
    k, length = costs.shape
    for j in range(length + 1):
        row[j] = np.float32(j) * gamma
    for i in range(k):
        diagonal = row[0]
        row[0] = np.float32(i + 1) * gamma
        left = row[0]
        for j in range(length):  # hot loop
            up = row[j + 1]
            left = min(min(up + gamma, left + gamma), diagonal + costs[i, j])
            diagonal = up
            row[j + 1] = left
    return row[length]
