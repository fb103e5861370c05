"""ChaCha in SIMD lanes: sixteen blocks at a time (Bernstein 2008; 64-bit counter, 64-bit nonce).

A block is sixteen 32-bit words, a function of (256-bit key, counter, nonce). Lane l of every vector below
belongs to block l; output vector w holds word w of the sixteen blocks.
"""

from .jit import njit
from .simd import iota_i32, rotate_left, splat_i32, store


@njit(nogil=True)
def _quarter(a, b, c, d):
    a = a + b
    d = rotate_left(d ^ a, 16)
    c = c + d
    b = rotate_left(b ^ c, 12)
    a = a + b
    d = rotate_left(d ^ a, 8)
    c = c + d
    b = rotate_left(b ^ c, 7)
    return a, b, c, d


@njit(nogil=True)
def blocks(key, counter_low, counter_high, nonce_0, nonce_1, rounds):
    """Sixteen ChaCha blocks: a tuple of 16 vectors. key: uint32 [8]; the rest: i32x16; rounds: even."""
    c0 = splat_i32(0x61707865)
    c1 = splat_i32(0x3320646E)
    c2 = splat_i32(0x79622D32)
    c3 = splat_i32(0x6B206574)
    k0 = splat_i32(key[0])
    k1 = splat_i32(key[1])
    k2 = splat_i32(key[2])
    k3 = splat_i32(key[3])
    k4 = splat_i32(key[4])
    k5 = splat_i32(key[5])
    k6 = splat_i32(key[6])
    k7 = splat_i32(key[7])
    x0, x1, x2, x3 = c0, c1, c2, c3
    x4, x5, x6, x7 = k0, k1, k2, k3
    x8, x9, xa, xb = k4, k5, k6, k7
    xc, xd, xe, xf = counter_low, counter_high, nonce_0, nonce_1
    for _ in range(rounds // 2):  # hot loop
        x0, x4, x8, xc = _quarter(x0, x4, x8, xc)
        x1, x5, x9, xd = _quarter(x1, x5, x9, xd)
        x2, x6, xa, xe = _quarter(x2, x6, xa, xe)
        x3, x7, xb, xf = _quarter(x3, x7, xb, xf)
        x0, x5, xa, xf = _quarter(x0, x5, xa, xf)
        x1, x6, xb, xc = _quarter(x1, x6, xb, xc)
        x2, x7, x8, xd = _quarter(x2, x7, x8, xd)
        x3, x4, x9, xe = _quarter(x3, x4, x9, xe)
    return (
        x0 + c0,
        x1 + c1,
        x2 + c2,
        x3 + c3,
        x4 + k0,
        x5 + k1,
        x6 + k2,
        x7 + k3,
        x8 + k4,
        x9 + k5,
        xa + k6,
        xb + k7,
        xc + counter_low,
        xd + counter_high,
        xe + nonce_0,
        xf + nonce_1,
    )


@njit(nogil=True, cache=True)
def keystream(key, counter, nonce_0, nonce_1, rounds, out):
    """Fill out, uint32 [16, B], with blocks counter .. counter + B - 1 of one nonce (B a multiple of 16).

    counter: 64 bits, of which the low 32 do not overflow.
    """
    flat = out.reshape(-1)
    n_blocks = out.shape[1]
    high = splat_i32(counter >> 32)
    for first in range(0, n_blocks, 16):
        low = splat_i32(counter + first) + iota_i32()
        x = blocks(key, low, high, splat_i32(nonce_0), splat_i32(nonce_1), rounds)
        for w in range(16):
            store(flat, w * n_blocks + first, x[w])
