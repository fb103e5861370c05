"""Token costs: an integer for each (token, key row), from the key's 32-bit words.

exp: round(EXP_SCALE * log(1 - u)), u = (word + 1/2) / 2**32, from 0 (a poor fit) down to EXP_COST_MIN.
its: abs(u - eta) in units of 1 / ITS_SCALE, u = word >> 16.
The float32 steps below are IEEE operations with a fixed order, so that every machine gets the same integer.
"""

import numpy as np

from ..constants import DOMAIN_EXP, ROUNDS
from .chacha import blocks
from .jit import njit
from .simd import (
    bits_float,
    float_bits,
    float_to_int,
    fma,
    int_to_float,
    iota_i32,
    shift_left,
    shift_right,
    splat_f32,
    splat_i32,
    store,
    unsigned_to_float,
)

_UNIT = np.float32(4096.0)
_LN2_UNITS = np.float32(4096.0 * np.log(2.0))
_TOP_UNITS = np.float32(-32.0 * 4096.0 * np.log(2.0))
# log(1 + f) = f * P(f) on [sqrt(1/2) - 1, sqrt(2) - 1]; minimax, absolute error 1.5e-6.
_P0 = np.float32(1.000012755393982)
_P1 = np.float32(-0.4998505115509033)
_P2 = np.float32(0.3322587311267853)
_P3 = np.float32(-0.2547246515750885)
_P4 = np.float32(0.22330068051815033)
_P5 = np.float32(-0.1431984156370163)
_SQRT_HALF_BITS = 0x3F3504F3
_HALF = np.float32(0.5)
_ONE = np.float32(1.0)


@njit(nogil=True)
def exp_cost(word):
    """i32x16 -> i32x16: the exp token cost of sixteen words. 1 - u = (~word + 1/2) / 2**32."""
    x = unsigned_to_float(word ^ splat_i32(-1)) + splat_f32(_HALF)
    bits = float_bits(x)
    exponent = shift_right(bits - splat_i32(_SQRT_HALF_BITS), 23)
    f = bits_float(bits - shift_left(exponent, 23)) - splat_f32(_ONE)
    p = fma(f, splat_f32(_P5), splat_f32(_P4))
    p = fma(f, p, splat_f32(_P3))
    p = fma(f, p, splat_f32(_P2))
    p = fma(f, p, splat_f32(_P1))
    p = fma(f, p, splat_f32(_P0))
    log_f = (f * splat_f32(_UNIT)) * p
    cost = fma(int_to_float(exponent), splat_f32(_LN2_UNITS), log_f) + splat_f32(_TOP_UNITS)
    return float_to_int(cost - splat_f32(_HALF))  # costs are <= 0: truncation rounds to nearest


@njit(nogil=True)
def token_block(token):
    """(counter, word index) of a token in its row: 16 neighbouring blocks hold 256 neighbouring tokens."""
    return 16 * (token // 256) + token % 16, (token // 16) % 16


@njit(nogil=True, cache=True)
def exp_costs(secret, tokens, n, out):
    """out[i, j] = cost of tokens[i] at key row j. tokens: int64 [U]; out: int32 [U, >= n + 16]."""
    flat = out.reshape(-1)
    width = out.shape[1]
    zero = splat_i32(0)
    for i in range(tokens.size):
        counter, w = token_block(tokens[i])
        for j in range(0, n, 16):  # hot loop
            rows = splat_i32(j) + iota_i32()
            x = blocks(secret, splat_i32(counter), zero, splat_i32(DOMAIN_EXP), rows, ROUNDS)
            store(flat, i * width + j, exp_cost(x[w]))


@njit(nogil=True, cache=True)
def exp_words(secret, tokens, n, out):
    """out[i, j] = the key's word of tokens[i] at key row j. tokens: int64 [U]; out: int32 [U, >= n + 16]."""
    flat = out.reshape(-1)
    width = out.shape[1]
    zero = splat_i32(0)
    for i in range(tokens.size):
        counter, w = token_block(tokens[i])
        for j in range(0, n, 16):  # hot loop
            rows = splat_i32(j) + iota_i32()
            x = blocks(secret, splat_i32(counter), zero, splat_i32(DOMAIN_EXP), rows, ROUNDS)
            store(flat, i * width + j, x[w])


@njit(nogil=True, cache=True)
def exp_table(secret, first, last, out):
    """out[v, j] = cost of token v at key row j, for v in [first, last), both multiples of 256.

    out: int32 [V, n], V a multiple of 256 and n of 16. Every word that is made is used.
    """
    flat = out.reshape(-1)
    n = out.shape[1]
    zero = splat_i32(0)
    for chunk in range(first, last, 256):
        for lane in range(16):
            counter = splat_i32(chunk // 16 + lane)
            for j in range(0, n, 16):  # hot loop
                rows = splat_i32(j) + iota_i32()
                x = blocks(secret, counter, zero, splat_i32(DOMAIN_EXP), rows, ROUNDS)
                for w in range(16):
                    store(flat, (chunk + 16 * w + lane) * n + j, exp_cost(x[w]))


@njit(nogil=True, cache=True)
def wrap(n, out):
    """Fill the 16 columns after the first n of out, int32 [U, >= n + 16], so that rows repeat mod n."""
    for i in range(out.shape[0]):
        for j in range(16):
            out[i, n + j] = out[i, j % n]
