"""Resampled keys: the costs of independent key sequences, made where they are used and never kept.

Resample t gets a number for (i, j), i the text's i-th distinct token and j the key row; it depends only on
(seed, t, i, j), so every text of a batch shares the same numbers and no thread count or batch split matters.
Resamples come in pairs: the two 16-bit halves of a ChaCha word belong to t = 2 pair and t = 2 pair + 1. Key row
j is word w of block b with j = w * S + b, S = ceil(n / 16), so that neighbouring blocks hold neighbouring rows.

Unranked costs (exp): the high 16 bits of u decide a lower bound of the cost; the low 16 bits are only made when it
matters. Ranked costs (its): u has 16 bits; the ranks of the distinct tokens are drawn without replacement.
"""

from typing import NamedTuple

import numpy as np

from ..constants import (
    DOMAIN_NULL_HIGH,
    DOMAIN_NULL_LOW,
    DOMAIN_NULL_RANK,
    DOMAIN_NULL_UNIFORM,
    ITS_SCALE,
    ROUNDS,
)
from ..problem import ITS
from .chacha import blocks
from .costs import exp_cost
from .jit import njit
from .memory import aligned_i32
from .simd import (
    bits_float,
    float_bits,
    float_to_int,
    fma,
    halves,
    int_to_float,
    iota_i32,
    load_i16,
    maximum,
    shift_left,
    shift_right,
    shift_right_logical,
    splat_f32,
    splat_i16,
    splat_i32,
    store,
)

# log(x) >= ((A x + B) x + C) on [1, 2), at most 0.0069 below: a float32 quadratic that never exceeds it.
_A = -0.23902954
_B = 1.40338056
_C = -1.16435302
_LN2 = float(np.log(2.0))
_TINY_BITS = (127 - 17) << 23  # 2**-17: the least (1 - u) * 2**16
_ROUNDING = 0.56  # what rounding to an integer and float32 can add to an exact cost, in units


@njit(nogil=True)
def exp_bound_terms(shift, offset):
    """(a, b, c, e): float32 terms with which `exp_bound` bounds (cost + offset) / 2**shift from below."""
    unit = 4096.0 / 2.0**shift
    constant = (_C - (127 + 16) * _LN2) * unit + (offset - _ROUNDING) / 2.0**shift
    # -1: truncation towards zero of a negative number must not exceed it; -0.01: float32 rounding.
    return (
        np.float32(_A * unit),
        np.float32(_B * unit),
        np.float32(constant - 1.01),
        np.float32(_LN2 * unit),
    )


@njit(nogil=True)
def _exp_bound_16(high, terms):
    """i32x16 of 16-bit high halves -> i32x16: floor of a lower bound of the cost over all low halves."""
    x = int_to_float(splat_i32(0xFFFF) - high)
    bits = maximum(float_bits(x), splat_i32(_TINY_BITS))
    mantissa = bits_float((bits & splat_i32(0x7FFFFF)) | splat_i32(0x3F800000))
    exponent = int_to_float(shift_right_logical(bits, 23))
    quadratic = fma(mantissa, splat_f32(terms[0]), splat_f32(terms[1]))
    total = fma(mantissa, quadratic, fma(exponent, splat_f32(terms[3]), splat_f32(terms[2])))
    return float_to_int(total)


@njit(nogil=True)
def _exp_bound(word, terms):
    """Both halves of sixteen words -> i16x32, lane 2 l the low half of word l (resample 2 pair)."""
    even = _exp_bound_16(word & splat_i32(0xFFFF), terms)
    odd = _exp_bound_16(shift_right_logical(word, 16), terms)
    return halves((even & splat_i32(0xFFFF)) | shift_left(odd, 16))


@njit(nogil=True)
def exp_bounds(seed_key, group, n_rows, n, terms, out):
    """out[i, j, l]: int16 lower bound of the cost of resample 32 group + l. out: flat int16 [n_rows * n * 32]."""
    s = (n + 15) // 16
    pair = splat_i32(16 * group) + iota_i32()
    domain = splat_i32(DOMAIN_NULL_HIGH)
    for i in range(n_rows):
        for b in range(s):  # hot loop
            x = blocks(seed_key, splat_i32(b), splat_i32(i), domain, pair, ROUNDS)
            for w in range(16):
                j = w * s + b
                if j < n:
                    store(out, (i * n + j) * 32, _exp_bound(x[w], terms))


@njit(nogil=True)
def exp_pair(seed_key, pair, n_rows, n, offset, even, odd):
    """Costs plus offset of resamples 2 pair and 2 pair + 1: int32 [>= n_rows, >= n + S + 32] each, rows wrapped."""
    flat_even = even.reshape(-1)
    flat_odd = odd.reshape(-1)
    width = even.shape[1]
    s = (n + 15) // 16
    nonce = splat_i32(pair)
    low_mask = splat_i32(0xFFFF)
    high_mask = splat_i32(-0x10000)
    add = splat_i32(offset)
    for i in range(n_rows):
        # Last block first: what sixteen lanes write past the end of a run of S rows is overwritten later.
        for b in range(16 * ((s - 1) // 16), -1, -16):  # hot loop
            counter = splat_i32(b) + iota_i32()
            row = splat_i32(i)
            x = blocks(seed_key, counter, row, splat_i32(DOMAIN_NULL_HIGH), nonce, ROUNDS)
            y = blocks(seed_key, counter, row, splat_i32(DOMAIN_NULL_LOW), nonce, ROUNDS)
            for w in range(16):
                j = w * s + b
                if j < n:
                    first = shift_left(x[w], 16) | (y[w] & low_mask)
                    second = (x[w] & high_mask) | shift_right_logical(y[w], 16)
                    store(flat_even, i * width + j, exp_cost(first) + add)
                    store(flat_odd, i * width + j, exp_cost(second) + add)
        _wrap_row(flat_even, i * width, n)
        _wrap_row(flat_odd, i * width, n)


@njit(nogil=True)
def _wrap_row(flat, base, n):
    p = 0
    for j in range(16):
        flat[base + n + j] = flat[base + p]
        p = p + 1 if p + 1 < n else 0


@njit(nogil=True)
def its_uniforms(seed_key, pair, n, even, odd):
    """u of resamples 2 pair and 2 pair + 1, in units of 1 / ITS_SCALE: int32 [>= n] each."""
    s = (n + 15) // 16
    words = np.empty((16, 16), np.uint32)
    flat = words.reshape(-1)
    for b in range(0, s, 16):
        counter = splat_i32(b) + iota_i32()
        x = blocks(
            seed_key, counter, splat_i32(0), splat_i32(DOMAIN_NULL_UNIFORM), splat_i32(pair), ROUNDS
        )
        for w in range(16):
            store(flat, 16 * w, x[w])
        for w in range(16):
            for lane in range(min(16, s - b)):
                j = w * s + b + lane
                if j < n:
                    even[j] = words[w, lane] & 0xFFFF
                    odd[j] = words[w, lane] >> 16


@njit(nogil=True)
def eta(rank, denominator):
    """rank / denominator in units of 1 / ITS_SCALE, rounded to nearest."""
    if denominator == 0:
        return 0
    return (np.int64(rank) * ITS_SCALE + denominator // 2) // denominator


@njit(nogil=True)
def its_etas(seed_key, t, n_rows, problem, seen, out):
    """eta of n_rows distinct random ranks below V, the i-th distinct token's: int32 [n_rows].

    seen: int32 [V + 1], scratch: stamps of the ranks drawn, last the newest stamp (zeros at first).
    Draws that repeat a rank are passed over.
    """
    vocab_size = problem.vocab_size
    seen[vocab_size] += 1
    stamp = seen[vocab_size]
    words = np.empty(256, np.uint32)
    i = 0
    draw = 0
    while i < n_rows:
        if draw % 256 == 0:
            counter = splat_i32(draw // 16) + iota_i32()
            x = blocks(
                seed_key, counter, splat_i32(0), splat_i32(DOMAIN_NULL_RANK), splat_i32(t), ROUNDS
            )
            for w in range(16):
                store(words, 16 * w, x[w])
        rank = (np.uint64(words[draw % 256]) * np.uint64(vocab_size)) >> np.uint64(32)
        draw += 1
        if seen[rank] != stamp:
            seen[rank] = stamp
            out[i] = eta(rank, problem.denominator)
            i += 1


@njit(nogil=True)
def its_bounds(seed_key, group, n_rows, problem, shift, seen, out):
    """out[i, j, l]: int16 lower bound of (cost - 2 gamma) / 2**shift of resample 32 group + l (see `exp_bounds`).

    abs(u - eta) >= 2 abs(u // 2 - eta // 2) - 3, eta // 2 cut to 15 bits.
    """
    n = problem.n
    uniforms = np.empty((n, 32), np.int16)
    etas = np.empty((n_rows, 32), np.int16)
    even = np.empty(n, np.int32)
    odd = np.empty(n, np.int32)
    eta_of = np.empty(n_rows, np.int32)
    for lane in range(16):
        its_uniforms(seed_key, 16 * group + lane, n, even, odd)
        for j in range(n):
            uniforms[j, 2 * lane] = even[j] >> 1
            uniforms[j, 2 * lane + 1] = odd[j] >> 1
    for lane in range(32):
        its_etas(seed_key, 32 * group + lane, n_rows, problem, seen, eta_of)
        for i in range(n_rows):
            etas[i, lane] = min(eta_of[i] >> 1, 32767)
    flat_uniforms = uniforms.reshape(-1)
    flat_etas = etas.reshape(-1)
    gap = splat_i16((2 * problem.gamma + (1 << shift) - 1) >> shift)
    down = min(shift - 1, 15)  # a shift by more than 15 bits is not defined for int16
    for i in range(n_rows):
        e = load_i16(flat_etas, i * 32)
        for j in range(n):  # hot loop
            d = load_i16(flat_uniforms, j * 32) - e
            d = maximum(d, splat_i16(0) - d) - splat_i16(2)
            store(out, (i * n + j) * 32, shift_right(d, down) - gap)


class Scratch(NamedTuple):
    """Arrays for resamples of at most n_rows distinct tokens.

    both: int32 [2, n_rows, >= n + 16], the costs of a pair; the rest for ranked costs: uniforms int32 [2, n],
    etas int32 [n_rows], seen int32 [V + 1].
    """

    both: np.ndarray
    uniforms: np.ndarray
    etas: np.ndarray
    seen: np.ndarray


@njit(nogil=True)
def resample_scratch(problem, n_rows):
    """`Scratch` for a problem."""
    n = problem.n
    ranked = problem.cost == ITS
    width = n + (n + 15) // 16 + 32
    return Scratch(
        aligned_i32(2 * n_rows * width).reshape((2, n_rows, width)),
        np.empty((2, n if ranked else 1), np.int32),
        np.empty(n_rows if ranked else 1, np.int32),
        np.zeros(problem.vocab_size + 1 if ranked else 1, np.int32),
    )


@njit(nogil=True)
def its_pair(seed_key, problem, pair, n_rows, scratch):
    """Costs less 2 gamma of resamples 2 pair and 2 pair + 1 (see `exp_pair`), in scratch.both."""
    n = problem.n
    etas = scratch.etas
    its_uniforms(seed_key, pair, n, scratch.uniforms[0], scratch.uniforms[1])
    for half in range(2):
        its_etas(seed_key, 2 * pair + half, n_rows, problem, scratch.seen, etas)
        out = scratch.both[half]
        u = scratch.uniforms[half]
        flat = out.reshape(-1)
        for i in range(n_rows):
            for j in range(n):
                out[i, j] = abs(u[j] - etas[i]) - 2 * problem.gamma
            _wrap_row(flat, i * out.shape[1], n)


@njit(nogil=True)
def make_pair(seed_key, problem, pair, n_rows, scratch):
    """Costs less 2 gamma of resamples 2 pair and 2 pair + 1: int32 [2, >= n_rows, >= n + 16], rows wrapped."""
    both = scratch.both
    if problem.cost == ITS:
        its_pair(seed_key, problem, pair, n_rows, scratch)
    else:
        exp_pair(seed_key, pair, n_rows, problem.n, -2 * problem.gamma, both[0], both[1])
    return both


@njit(nogil=True)
def make_bounds(seed_key, problem, group, n_rows, shift, seen, out):
    """Lower bounds of (cost - 2 gamma) / 2**shift of resamples 32 group ..: flat int16 [n_rows * n * 32].

    seen: int32 [V + 1] for ranked costs (see `its_etas`).
    """
    if problem.cost == ITS:
        its_bounds(seed_key, group, n_rows, problem, shift, seen, out)
    else:
        terms = exp_bound_terms(shift, -2 * problem.gamma)
        exp_bounds(seed_key, group, n_rows, problem.n, terms, out)
