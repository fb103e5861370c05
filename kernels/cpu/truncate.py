"""What temperature, min-p, top-k and top-p leave of a row of logits, without sorting it.

Each of the three keeps the first so many tokens in order of logit, equal ones in order of id. So together they come to
a pair: the least logit that is kept, and how many of the tokens that have just this one. For top-k that is a selection
among the few logits that reach the k-th greatest of some maxima; for top-p the sums of exp above four thresholds,
between which the next four are set, until one logit is left.

Shared arguments:
    x: float32 [W], logits over the temperature; W is a multiple of 16, and -inf stands behind the row.
    weights: float32 [W], exp(x - top), 0 for what is excluded already; top is the greatest of the row.
    floor: float32, the least x - top that min-p keeps.
"""

import numpy as np

from .jit import njit
from .sample import MINUS_INFINITY, scaled_exp
from .simd import (
    float_bits,
    greater_mask_f32,
    load_f32,
    lowest_bit,
    maximum,
    splat_f32,
    splat_i32,
    store,
    where_greater_f32,
)

BLOCK = 512
"""Tokens of a block: it has sixteen maxima, and sums of float32 are no longer than that of its lanes."""

FEW = 1024
"""So many candidates for the least logit of the nucleus are copied, so that later sums are short."""

LEAST = np.float32(-80)
"""exp(x - top) of anything lower counts as this: at 2e-35 it adds nothing to a sum that holds a 1."""

ALL = np.int64(2**62)
LOWEST = np.finfo(np.float32).min
INFINITY_BITS = 0x7F800000


@njit(nogil=True, cache=True)
def truncate(logits, temperature, top_k, top_p, min_p, joint, out):
    """out = logits / temperature, with -inf for what is excluded: `wmcore.truncate.truncated` says what that is.

    logits: float32 [R, V], C-contiguous; temperature, top_p, min_p: float32 [R]; top_k: int64 [R]; joint: bool;
    out: float32 [R, V] (written). Time: about six passes of a row; scratch: three rows.
    """
    n_rows, size = logits.shape
    source, target = logits.reshape(-1), out.reshape(-1)
    width = (size + BLOCK - 1) // BLOCK * BLOCK
    row = np.full(width, MINUS_INFINITY, np.float32)
    scratch = np.empty((2, width + 16), np.float32)
    peaks = np.empty(width // BLOCK * 16, np.float32)
    for r in range(n_rows):
        top = _scale(source, r * size, size, temperature[r], row, peaks)
        if np.isnan(top):
            out[r] = row[:size]
            continue
        floor = MINUS_INFINITY
        if min_p[r] > 0:
            floor = np.float32(min(np.log(np.float64(min_p[r])), 0))
        k = top_k[r] if 0 < top_k[r] < size else np.int64(0)
        least, ties = _cut(row, peaks, top, floor, k, top_p[r], joint, scratch)
        _write(row, size, top, floor, least, ties, target, r * size)


@njit(nogil=True)
def _scale(source, start, size, temperature, row, peaks):
    """row[:size] = source[start : start + size] / temperature. The greatest; NaN if it is not finite or any is NaN.

    peaks: float32 [16 * blocks], the greatest of each lane of each block (written).
    """
    whole = size // 16 * 16
    last = np.full(16, MINUS_INFINITY, np.float32)
    last[: size - whole] = source[start + whole : start + size]
    divisor = splat_f32(temperature)
    magnitude = splat_i32(0x7FFFFFFF)
    largest = splat_i32(0)
    for first in range(0, row.size, BLOCK):
        peak = splat_f32(MINUS_INFINITY)
        for v in range(first, min(first + BLOCK, whole), 16):  # hot loop
            x = load_f32(source, start + v) / divisor
            store(row, v, x)
            largest = maximum(largest, float_bits(x) & magnitude)
            peak = where_greater_f32(x, peak, x, peak)
        if first <= whole < size and whole < first + BLOCK:
            x = load_f32(last, 0) / divisor
            store(row, whole, x)
            largest = maximum(largest, float_bits(x) & magnitude)
            peak = where_greater_f32(x, peak, x, peak)
        store(peaks, first // BLOCK * 16, peak)
    bits = np.empty(16, np.int32)
    store(bits, 0, largest)
    top = peaks.max()
    return top if bits.max() <= INFINITY_BITS and np.isfinite(top) else np.float32(np.nan)


@njit(nogil=True)
def _cut(row, peaks, top, floor, k, top_p, joint, scratch):
    """(least, ties): the least logit that top-k and top-p keep, and how many tokens of just this one. k: 0 for all."""
    some, weights = scratch[0], scratch[1]
    x, n = row, row.size
    least, ties = MINUS_INFINITY, ALL
    if k > 0:
        least, count = _kth(row, peaks, k, some)
        if joint:
            ties = k - (some[:count] > least).sum()
        elif count > 0:
            x, n = some, _padded(some, count)
    if top_p >= 1:
        return least, ties
    if joint:
        total = _weigh(x, n, top, MINUS_INFINITY, MINUS_INFINITY, weights)
    else:
        total = _weigh(x, n, top, least, floor, weights)
    share = np.float64(top_p) * total
    if joint:  # a token stays while what is before it is *at most* top_p
        share = np.nextafter(share, np.inf)
    share = max(share, np.finfo(np.float64).tiny)
    # What has less than (1 - top_p) / n of the law each, has less than 1 - top_p together: the least is above that.
    low = top + np.log((1 - np.float64(top_p)) * total / n) - 1e-3 - 1e-6 * abs(top)
    at, above = _crossing(x, n, weights, top, np.float32(max(low, LOWEST)), share, some)
    more = np.int64(max(1.0, np.ceil((share - above) / np.exp(np.float64(at) - top))))
    if at > least:
        return at, more
    return least, min(ties, more) if at == least else ties


@njit(nogil=True)
def _kth(row, peaks, k, some):
    """(the k-th greatest of row, count); all that are at least as great are some[:count], with others (written).

    (-inf, 0) where not k are greater than -inf.
    """
    among = (
        peaks if k <= peaks.size else row
    )  # a part of the row, whose k-th is not above the row's
    low = np.nextafter(np.partition(among, among.size - k)[among.size - k], MINUS_INFINITY)
    count = _collect(row, row.size, low, np.float32(np.inf), some)
    if count < k:
        return MINUS_INFINITY, 0
    return np.partition(some[:count], count - k)[count - k], count


@njit(nogil=True)
def _collect(x, n, low, high, some):
    """some[:count] = those of x[:n] in (low, high], in order; count. some may be x."""
    below, upper = splat_f32(low), splat_f32(high)
    count = 0
    for v in range(0, n, 16):  # hot loop
        values = load_f32(x, v)
        found = greater_mask_f32(values, below) & ~greater_mask_f32(values, upper)
        while found != 0:
            some[count] = x[v + lowest_bit(found)]
            count += 1
            found &= found - 1
    return count


@njit(nogil=True)
def _padded(some, count):
    """count rounded up to 16, with -inf behind some[:count]."""
    n = (count + 15) // 16 * 16
    some[count:n] = MINUS_INFINITY
    return n


@njit(nogil=True)
def _weigh(x, n, top, least, floor, weights):
    """Weights of x[:n], 0 below least and below min-p's floor; their sum."""
    shift, lower, bottom = splat_f32(top), splat_f32(least), splat_f32(floor)
    zero = splat_f32(np.float32(0))
    total = zero
    for first in range(0, n, BLOCK):
        part = zero
        for v in range(first, min(first + BLOCK, n), 16):  # hot loop
            values = load_f32(x, v)
            below_top = values - shift
            weight = where_greater_f32(lower, values, zero, scaled_exp(below_top, LEAST, 0))
            weight = where_greater_f32(bottom, below_top, zero, weight)
            store(weights, v, weight)
            part = part + weight
        total = total + part
    return _added(total)


@njit(nogil=True)
def _added(lanes):
    values = np.empty(16, np.float32)
    store(values, 0, lanes)
    total = 0.0
    for value in values:
        total += np.float64(value)
    return total


@njit(nogil=True)
def _crossing(x, n, weights, top, low, share, some):
    """(value, above): the least value of x[:n] such that the weights of greater ones, above, are less than share.

    It is greater than low. Weights of equal values are equal. some: scratch, may be x; weights are overwritten.
    """
    high = top
    base = above = 0.0  # base: what was above the candidates when they were copied
    while np.nextafter(low, high) < high:
        step = (np.float64(high) - low) / 5
        a, b = np.float32(low + step), np.float32(low + 2 * step)
        c, d = np.float32(low + 3 * step), np.float32(low + 4 * step)
        over_a, over_b, over_c, over_d = _sums_above(x, n, weights, a, b, c, d)
        if base + over_d >= share:
            low, reached = d, base + over_d
        elif base + over_c >= share:
            low, high, reached, above = c, d, base + over_c, base + over_d
        elif base + over_b >= share:
            low, high, reached, above = b, c, base + over_b, base + over_c
        elif base + over_a >= share:
            low, high, reached, above = a, b, base + over_a, base + over_b
        else:
            high, reached, above = a, np.inf, base + over_a
        # As many as weigh the same at the least weight: more are not between low and high.
        if n > FEW and (reached - above) * np.exp(np.float64(top) - low) <= FEW:
            x, n = some, _padded(some, _collect(x, n, low, high, some))
            _weigh(x, n, top, MINUS_INFINITY, MINUS_INFINITY, weights)
            base = above
    return high, above


@njit(nogil=True)
def _sums_above(x, n, weights, a, b, c, d):
    """The sums of the weights of x[:n] above each of four values."""
    a, b, c, d = splat_f32(a), splat_f32(b), splat_f32(c), splat_f32(d)
    zero = splat_f32(np.float32(0))
    sum_a = sum_b = sum_c = sum_d = zero
    for first in range(0, n, BLOCK):
        part_a = part_b = part_c = part_d = zero
        for v in range(first, min(first + BLOCK, n), 16):  # hot loop
            values, weight = load_f32(x, v), load_f32(weights, v)
            part_a = part_a + where_greater_f32(values, a, weight, zero)
            part_b = part_b + where_greater_f32(values, b, weight, zero)
            part_c = part_c + where_greater_f32(values, c, weight, zero)
            part_d = part_d + where_greater_f32(values, d, weight, zero)
        sum_a, sum_b = sum_a + part_a, sum_b + part_b
        sum_c, sum_d = sum_c + part_c, sum_d + part_d
    return _added(sum_a), _added(sum_b), _added(sum_c), _added(sum_d)


@njit(nogil=True)
def _write(row, size, top, floor, least, ties, out, start):
    """out[start : start + size] = row; -inf below least, below min-p's floor, and after so many ties with least."""
    below = np.nextafter(least, MINUS_INFINITY)
    under, lower = splat_f32(below), splat_f32(least)
    shift, bottom = splat_f32(top), splat_f32(floor)
    nothing = splat_f32(MINUS_INFINITY)
    lanes = np.empty(16, np.float32)
    seen = 0
    for v in range(0, size, 16):  # hot loop
        x = load_f32(row, v)
        kept = where_greater_f32(x, under, x, nothing)
        kept = where_greater_f32(bottom, x - shift, nothing, kept)
        equal = greater_mask_f32(x, under) & ~greater_mask_f32(x, lower)
        if equal == 0 and v + 16 <= size:
            store(out, start + v, kept)
            continue
        store(lanes, 0, kept)
        while equal != 0:
            seen += 1
            if seen > ties:
                lanes[lowest_bit(equal)] = MINUS_INFINITY
            equal &= equal - 1
        for i in range(min(16, size - v)):
            out[start + v + i] = lanes[i]
