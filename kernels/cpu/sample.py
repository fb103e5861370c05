"""Watermarked draws of the next token from a batch of logits (arXiv 2307.15593, section 2).

Both kernels give the same token on every machine: key words are integers, logs and exponentials
are float32 polynomials of additions and fused multiply-adds, and sums are sums of integers. A row
that is all -inf or NaN, or in which +inf is met, has no distribution to draw from: its token is -1.

Shared arguments:
    logits: float32 [B, V], C-contiguous. -inf and NaN mean "never".
    inverse_temperature: float32 > 0; the logits are multiplied by it.
    out: int64 [B], the drawn tokens (written).
"""

import numpy as np

from ..constants import ROUNDS
from .chacha import blocks
from .jit import njit
from .simd import (
    bits_float,
    float_bits,
    float_to_int,
    fma,
    greater_mask_f32,
    int_to_float,
    iota_i32,
    load_f32,
    minimum_unsigned,
    shift_left,
    shift_right,
    splat_f32,
    splat_i32,
    store,
    unsigned_to_float,
    where_greater_f32,
    where_less_i32,
)

CHUNK = 256
"""Tokens whose key words are made at once: sixteen blocks of sixteen words."""

GUMBEL_MAX = np.float32(23.0)
"""At least every value of `gumbel`; the greatest, at word 2**32 - 1, is 33 log 2 = 22.87."""

MINUS_INFINITY = np.float32(-np.inf)
LN_2 = np.float32(np.log(2))
LN_2_HIGH = np.float32(0.693359375)  # few bits: times a small integer it is exact
LN_2_LOW = np.float32(-2.12194440e-4)
LOG2_E = np.float32(1 / np.log(2))
SQRT_HALF_BITS = 0x3F3504F3


@njit(nogil=True)
def _neg_log(exponent, h):
    """-log(2**exponent * (1 - h)) for 1 - sqrt(2) <= h <= 1 - sqrt(1/2).

    -log(1 - h) = h + h*h * R(h), R a minimax fit of degree 7: relative error 3e-8 before rounding.
    """
    r = splat_f32(np.float32(0.08734852820634842))
    r = fma(r, h, splat_f32(np.float32(0.1430753916501999)))
    r = fma(r, h, splat_f32(np.float32(0.14917977154254913)))
    r = fma(r, h, splat_f32(np.float32(0.16570506989955902)))
    r = fma(r, h, splat_f32(np.float32(0.19962070882320404)))
    r = fma(r, h, splat_f32(np.float32(0.25001755356788635)))
    r = fma(r, h, splat_f32(np.float32(0.33333951234817505)))
    r = fma(r, h, splat_f32(np.float32(0.49999991059303284)))
    return fma(int_to_float(exponent), splat_f32(-LN_2), fma(h * h, r, h))


@njit(nogil=True)
def _split(x):
    """Positive x = 2**exponent * (1 - h), with 1 - h from sqrt(1/2) to sqrt(2): (exponent, h)."""
    base = splat_i32(SQRT_HALF_BITS)
    bits = float_bits(x) - base
    mantissa = bits_float((bits & splat_i32(0x7FFFFF)) + base)
    return shift_right(bits, 23), splat_f32(np.float32(1)) - mantissa


@njit(nogil=True)
def gumbel(word):
    """-log(-log(u)) of u = (word + 1/2) / 2**32, sixteen at a time (i32x16 to f32x16).

    Winners have u near 1, where -log(u) is about 1 - u: that comes from the integers, so that
    nothing cancels.
    """
    half = splat_f32(np.float32(0.5))
    exponent, h = _split(unsigned_to_float(word) + half)
    exponent = exponent - splat_i32(32)
    flipped = word ^ splat_i32(-1)
    below_one = (unsigned_to_float(flipped) + half) * splat_f32(np.float32(2.0**-32))
    h = bits_float(where_less_i32(exponent, splat_i32(0), float_bits(h), float_bits(below_one)))
    exponent, h = _split(_neg_log(exponent, h))
    return _neg_log(exponent, h)


@njit(nogil=True, cache=True)
def exp_sample(logits, inverse_temperature, secret, domain, rows, out):
    """Exponential minimum sampling: argmax of logit * inverse_temperature - log(-log(u)).

    secret: uint32 [8]; rows: int64 [B], in [0, 2**32). u = (word + 1/2) / 2**32; token v of key row
    j has word (v // 16) % 16 of the ChaCha block at counter 16 * (v // 256) + v % 16, nonce
    (domain, j). Ties go to the lowest token. Time: B * V, without a table.
    A chunk of 256 tokens is skipped when its greatest logit cannot win with the greatest Gumbel
    number, and after making its words when none is large enough: the result is the same.
    """
    n_rows, n_tokens = logits.shape
    flat = logits.reshape(-1)
    n_full = n_tokens // CHUNK
    tail = np.full(CHUNK, MINUS_INFINITY, np.float32)
    lanes_score = np.empty(16, np.float32)
    lanes_token = np.empty(16, np.int32)
    scale = splat_f32(inverse_temperature)
    zero = splat_i32(0)
    lane = iota_i32()
    for b in range(n_rows):
        nonce_0 = splat_i32(domain)
        nonce_1 = splat_i32(rows[b])
        score = splat_f32(MINUS_INFINITY)
        token = splat_i32(-1)
        best = MINUS_INFINITY
        for s in range((n_tokens + CHUNK - 1) // CHUNK):
            source = flat
            start = b * n_tokens + s * CHUNK
            if s == n_full:
                tail[: n_tokens - s * CHUNK] = flat[start : (b + 1) * n_tokens]
                source = tail
                start = 0
            top = splat_f32(MINUS_INFINITY)
            for w in range(16):
                x = load_f32(source, start + 16 * w)
                top = where_greater_f32(x, top, x, top)
            bound = fma(top, scale, splat_f32(GUMBEL_MAX))
            if greater_mask_f32(bound, splat_f32(best)) == 0:
                continue
            counter = splat_i32(16 * s) + lane
            words = blocks(secret, counter, zero, nonce_0, nonce_1, ROUNDS)
            least = splat_i32(-1)
            for w in range(16):
                least = minimum_unsigned(least, words[w] ^ splat_i32(-1))
            if greater_mask_f32(_reach(bound, best), unsigned_to_float(least)) == 0:
                continue
            for w in range(16):  # hot loop
                x = fma(load_f32(source, start + 16 * w), scale, gumbel(words[w]))
                token = where_greater_f32(x, score, splat_i32(CHUNK * s + 16 * w), token)
                score = where_greater_f32(x, score, x, score)
            if greater_mask_f32(score, splat_f32(best)) != 0:
                store(lanes_score, 0, score)
                best = lanes_score.max()
        store(lanes_score, 0, score)
        store(lanes_token, 0, token + lane)
        out[b] = _lowest_best(lanes_score, lanes_token)


@njit(nogil=True)
def _reach(bound, best):
    """A float above every 2**32 - 1 - word that lifts over `best` what GUMBEL_MAX lifts to `bound`.

    gumbel(word) > t needs (2**32 - 1 - word) / 2**32 < 1 - u < -log(u) < exp(-t). The bits of a
    float, read as an integer, are piecewise linear in its logarithm, which bounds exp from above.
    Rounding is covered by lowering `best` by 8 of its units in the last place and by adding 2**13
    at the end (a factor of 1.001).
    """
    low, high = splat_f32(np.float32(-60)), splat_f32(np.float32(1))
    best = best - abs(best) * np.float32(2.0**-20)
    power = (bound - splat_f32(GUMBEL_MAX + best)) * splat_f32(LOG2_E)
    power = where_greater_f32(power, low, power, low)
    power = where_greater_f32(high, power, power, high)
    one = np.float32(1 << 23)
    bits = float_to_int(fma(power, splat_f32(one), splat_f32(np.float32(159) * one)))
    return bits_float(bits + splat_i32(1 << 13))


@njit(nogil=True)
def _lowest_best(scores, tokens):
    best = MINUS_INFINITY
    token = np.int64(-1)
    for i in range(16):
        if scores[i] > best or (scores[i] == best and tokens[i] < token):
            best = scores[i]
            token = np.int64(tokens[i])
    return np.int64(-1) if best == np.float32(np.inf) else token


@njit(nogil=True)
def scaled_exp(x, least, exponent):
    """exp(x) * 2**exponent, sixteen at a time: a minimax fit of error 3e-9; NaN and x <= least count as least."""
    low = splat_f32(least)
    x = where_greater_f32(x, low, x, low)
    magic = splat_f32(np.float32(3 << 22))  # x + magic - magic rounds x to the nearest integer
    k = fma(x, splat_f32(LOG2_E), magic) - magic
    f = fma(k, splat_f32(-LN_2_HIGH), x)
    f = fma(k, splat_f32(-LN_2_LOW), f)
    r = splat_f32(np.float32(0.001381461275741458))
    r = fma(r, f, splat_f32(np.float32(0.008368710055947304)))
    r = fma(r, f, splat_f32(np.float32(0.04166838899254799)))
    r = fma(r, f, splat_f32(np.float32(0.1666652113199234)))
    r = fma(r, f, splat_f32(np.float32(0.4999999403953552)))
    mantissa = float_bits(fma(f * f, r, f) + splat_f32(np.float32(1)))
    return bits_float(mantissa + shift_left(float_to_int(k) + splat_i32(exponent), 23))


@njit(nogil=True)
def _weight(x):
    """round(exp(x) * 2**30), i32x16, for x <= 0 or NaN (0)."""
    scaled = scaled_exp(x, np.float32(-30), 30)
    whole = splat_f32(np.float32(1 << 23))  # from here on floats are integers
    half = splat_f32(np.float32(0.5))
    return float_to_int(scaled + where_greater_f32(whole, scaled, half, splat_f32(np.float32(0))))


@njit(nogil=True)
def its_weights(flat, start, n_tokens, inverse_temperature, weights):
    """Fill weights, int32 [V rounded up to 16], from the row flat[start : start + V].

    weight = round(exp((logit - greatest) * inverse_temperature) * 2**30): integers, so that their
    sum is the same in any order. Returns the sum, or 0 for a row without a distribution.
    """
    n_whole = n_tokens // 16 * 16
    last = np.full(16, MINUS_INFINITY, np.float32)
    last[: n_tokens - n_whole] = flat[start + n_whole : start + n_tokens]
    top = splat_f32(MINUS_INFINITY)
    for v in range(0, n_whole, 16):
        x = load_f32(flat, start + v)
        top = where_greater_f32(x, top, x, top)
    x = load_f32(last, 0)
    top = where_greater_f32(x, top, x, top)
    lanes = np.empty(16, np.float32)
    store(lanes, 0, top)
    greatest = lanes.max()
    if not np.isfinite(greatest):
        return np.int64(0)
    shift, scale = splat_f32(greatest), splat_f32(inverse_temperature)
    for v in range(0, n_whole, 16):  # hot loop
        store(weights, v, _weight((load_f32(flat, start + v) - shift) * scale))
    if n_whole < n_tokens:
        store(weights, n_whole, _weight((load_f32(last, 0) - shift) * scale))
    total = np.int64(0)
    for v in range(n_tokens):
        total += np.int64(weights[v])
    return total


@njit(nogil=True)
def _target(word, total):
    """floor(u * total), exact, for u = (word + 1/2) / 2**32 and total < 2**62."""
    low_bits = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    w, t = np.uint64(word), np.uint64(total)
    half = t >> np.uint64(1)
    low = w * (t & low_bits) + (half & low_bits)
    return np.int64(w * (t >> shift) + (half >> shift) + (low >> shift))


@njit(nogil=True, cache=True)
def its_sample(logits, inverse_temperature, order, words, out):
    """Inverse transform sampling: the first token in permuted order whose CDF exceeds u.

    order: int32 [V], order[r] is the token of rank r; words: uint32 [B], u = (word + 1/2) / 2**32.
    The CDF is a sum of integers (see `its_weights`): a token with less than 2**-31 of the
    probability of the likeliest one is never drawn. Time: B * V; one scratch row of V int32.
    """
    n_rows, n_tokens = logits.shape
    flat = logits.reshape(-1)
    weights = np.empty((n_tokens + 15) // 16 * 16, np.int32)
    for b in range(n_rows):
        total = its_weights(flat, b * n_tokens, n_tokens, inverse_temperature, weights)
        out[b] = -1
        if total == 0:
            continue
        target = _target(words[b], total)
        cumulative = np.int64(0)
        first = 0
        for first in range(0, n_tokens, 64):
            block = np.int64(0)
            for r in range(first, min(first + 64, n_tokens)):  # hot loop
                block += np.int64(weights[order[r]])
            if cumulative + block > target:
                break
            cumulative += block
        for r in range(first, n_tokens):
            cumulative += np.int64(weights[order[r]])
            if cumulative > target:
                out[b] = order[r]
                break
