"""Lower bounds of the statistics of 32 resamples at once, in int16 lanes.

Costs are rounded down to multiples of 2**shift, and `drift` is added per text token, so that a value near the
observed statistic stays near zero. All additions saturate. At the top that only lowers a value, so it stays a
lower bound; a lane that touches the bottom is reported as undecided (its bound is LOWEST).
"""

from .jit import njit
from .simd import (
    add_saturated,
    less_equal_mask,
    load_i16,
    minimum,
    splat_i16,
    store,
)

LOWEST = -32768


@njit(nogil=True)
def _clamp(value):
    return min(max(value, LOWEST), 32767)


@njit(nogil=True)
def bound_edit(costs, problem, block, shift, drift, windows, row):
    """Bounds of E[k, k] / 2**shift + drift k over key windows, one for each of 32 resamples.

    One alignment with free ends in the key covers every window of windows = (first, count). costs: flat int16
    [U * n * 32] (`resample.make_bounds`); row: int16, >= 32 * (count + k) (scratch). Returns (bounds, lowest):
    lowest == LOWEST is undecided.
    """
    inverse, first, k = block
    n, gamma = problem.n, problem.gamma
    length = windows[1] + k - 1
    rows = n * 32
    for j in range(length + 1):
        store(row, j * 32, splat_i16(_clamp(-((gamma * j + (1 << shift) - 1) >> shift))))
    lowest = load_i16(row, length * 32)
    i = 0
    while i < k:
        four = i + 4 <= k
        r0 = inverse[first + i] * rows
        r1 = inverse[first + i + 1] * rows if four else 0
        r2 = inverse[first + i + 2] * rows if four else 0
        r3 = inverse[first + i + 3] * rows if four else 0
        base = splat_i16(_clamp(drift * i))
        step = splat_i16(_clamp(4 * drift if four else drift))
        diagonal = load_i16(row, 0)
        store(row, 0, add_saturated(base, step))
        left0, left1, left2, left3 = base, base, base, base
        j = 1
        p = windows[0]
        while j <= length:
            run = min(length - j + 1, n - p)
            offset = p * 32
            if four:
                for s in range(j, j + run):  # hot loop
                    up = load_i16(row, s * 32)
                    c0 = load_i16(costs, r0 + offset)
                    c1 = load_i16(costs, r1 + offset)
                    c2 = load_i16(costs, r2 + offset)
                    c3 = load_i16(costs, r3 + offset)
                    new0 = minimum(minimum(add_saturated(diagonal, c0), left0), up)
                    new1 = minimum(minimum(add_saturated(left0, c1), left1), new0)
                    new2 = minimum(minimum(add_saturated(left1, c2), left2), new1)
                    new3 = minimum(minimum(add_saturated(left2, c3), left3), new2)
                    store(row, s * 32, add_saturated(new3, step))
                    diagonal, left0, left1, left2, left3 = up, new0, new1, new2, new3
                    offset += 32
            else:
                for s in range(j, j + run):
                    up = load_i16(row, s * 32)
                    c0 = load_i16(costs, r0 + offset)
                    left0 = minimum(minimum(add_saturated(diagonal, c0), left0), up)
                    store(row, s * 32, add_saturated(left0, step))
                    diagonal = up
                    offset += 32
                left3 = left0
            j += run
            p = 0
        # E never rises along the key: the last column is the least of its row.
        lowest = minimum(lowest, left3)
        i += 4 if four else 1
    best = load_i16(row, length * 32)
    if gamma > 0:
        best = splat_i16(32767)
        for j in range(length + 1):
            back = splat_i16(_clamp((gamma * j) >> shift))
            best = minimum(best, add_saturated(load_i16(row, j * 32), back))
    return best, lowest


@njit(nogil=True)
def bound_plain(costs, n, block, drift):
    """Bounds of the least plain alignment / 2**shift + drift k over all n windows (see `bound_edit`)."""
    inverse, first, k = block
    best = splat_i16(32767)
    lowest = splat_i16(32767)
    rows = n * 32
    step = splat_i16(_clamp(drift))
    for tau in range(0, n, 4):
        t0, t1, t2, t3 = splat_i16(0), splat_i16(0), splat_i16(0), splat_i16(0)
        p0, p1, p2, p3 = tau, (tau + 1) % n, (tau + 2) % n, (tau + 3) % n
        for i in range(k):  # hot loop
            r = inverse[first + i] * rows
            t0 = add_saturated(t0, load_i16(costs, r + p0 * 32))
            t1 = add_saturated(t1, load_i16(costs, r + p1 * 32))
            t2 = add_saturated(t2, load_i16(costs, r + p2 * 32))
            t3 = add_saturated(t3, load_i16(costs, r + p3 * 32))
            lowest = minimum(lowest, minimum(minimum(t0, t1), minimum(t2, t3)))
            t0 = add_saturated(t0, step)
            t1 = add_saturated(t1, step)
            t2 = add_saturated(t2, step)
            t3 = add_saturated(t3, step)
            p0 = p0 + 1 if p0 + 1 < n else 0
            p1 = p1 + 1 if p1 + 1 < n else 0
            p2 = p2 + 1 if p2 + 1 < n else 0
            p3 = p3 + 1 if p3 + 1 < n else 0
        best = minimum(best, minimum(minimum(t0, t1), minimum(t2, t3)))
    return best, lowest


@njit(nogil=True)
def undecided(best, lowest, threshold):
    """Bit l says that resample l may reach the threshold: its bound is not above it, or not to be trusted."""
    below = less_equal_mask(best, splat_i16(_clamp(threshold)))
    return below | less_equal_mask(lowest, splat_i16(LOWEST))
