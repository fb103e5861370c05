"""Scores of the Gumbel watermark that serving engines write: a context hash with Philox4x32-10.

Salmon et al. 2011 (doi.org/10.1145/2063384.2063405). The `width` tokens before a position are absorbed four at a
time into a 128-bit state; the state keys a second Philox, whose counter is the token: one 32-bit word of its output
is the token's random number. Before the text stand tokens -1. Scheme "philox4x32-10-v1", as vLLM documents it.

Loops run over tokens with nothing carried from one to the next, so that LLVM fills vectors with them.
"""

from typing import NamedTuple

import numpy as np

from .contexts import first_contexts, table_size
from .jit import njit

CONTEXT_DOMAIN = 0x574D4358
TOKEN_DOMAIN = 0x574D544B
PAD = 0xFFFFFFFF
"""A token before the text; what fills up the last four of a context counts down from it."""


@njit(nogil=True, inline="always")
def _round(x0, x1, x2, x3, k0, k1):
    low = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    a = np.uint64(0xD2511F53) * x0
    b = np.uint64(0xCD9E8D57) * x2
    return (b >> shift) ^ x1 ^ k0, b & low, (a >> shift) ^ x3 ^ k1, a & low


@njit(nogil=True, inline="always")
def philox(x0, x1, x2, x3, k0, k1):
    """Ten rounds: four uint64 below 2**32, from a counter of four and a key of two such."""
    low = np.uint64(0xFFFFFFFF)
    w0 = np.uint64(0x9E3779B9)
    w1 = np.uint64(0xBB67AE85)
    for _ in range(10):
        x0, x1, x2, x3 = _round(x0, x1, x2, x3, k0, k1)
        k0 = (k0 + w0) & low
        k1 = (k1 + w1) & low
    return x0, x1, x2, x3


@njit(nogil=True)
def token_words(padded, width, key, state, out):
    """out[i] = the word of token i of a text, uint32 [m].

    padded: uint32 [width + m], the text after `width` times PAD; key: 64 bits; state: uint32 [4, m], written: it
    depends on the context alone.
    """
    m = out.size
    low = np.uint64(0xFFFFFFFF)
    key_0, key_1 = np.uint64(key) & low, np.uint64(key) >> np.uint64(32)
    s0, s1, s2, s3 = state[0], state[1], state[2], state[3]
    s0[:] = CONTEXT_DOMAIN
    s1[:] = width
    s2[:] = 0
    s3[:] = 0
    for offset in range(0, width, 4):
        for place, row in enumerate((s0, s1, s2, s3)):
            if offset + place < width:
                for i in range(m):
                    row[i] ^= padded[i + offset + place]
            else:
                row ^= np.uint32(PAD - place)
        k0 = key_0 ^ np.uint64(offset)
        for i in range(m):  # hot loop
            x0, x1, x2, x3 = philox(
                np.uint64(s0[i]), np.uint64(s1[i]), np.uint64(s2[i]), np.uint64(s3[i]), k0, key_1
            )
            s0[i] = x0
            s1[i] = x1
            s2[i] = x2
            s3[i] = x3
    token_key = key_1 ^ np.uint64(TOKEN_DOMAIN)
    for i in range(m):  # hot loop
        token = np.uint64(padded[width + i])
        x0, x1, x2, x3 = philox(
            token >> np.uint64(2),
            np.uint64(s0[i]),
            np.uint64(s1[i]),
            np.uint64(s2[i]),
            key_0 ^ np.uint64(s3[i]),
            token_key,
        )
        w = token & np.uint64(3)
        word = x0
        word = x1 if w == np.uint64(1) else word
        word = x2 if w == np.uint64(2) else word
        word = x3 if w == np.uint64(3) else word
        out[i] = word


class Contexts(NamedTuple):
    """How a token's number is made of its context: width, tokens of it; keys: uint64 [K]; weights: float64 [K];
    deduplicate: bool, count a token only where its context is new in the text."""

    width: int
    keys: np.ndarray
    weights: np.ndarray
    deduplicate: bool


@njit(nogil=True, cache=True)
def gumbel_scores(tokens, offsets, starts, first, last, contexts, score, counted):
    """score[a] = the weighted sum of -log(1 - u) over the tokens of text a, counted[a] how many, a in [first, last).

    tokens: uint32 [sum m]; offsets: int64 [N + 1]; starts: int64 [N], the width: each text stands after that many times
    PAD; contexts: `Contexts`; score: float64 [N]; counted: int64 [N]. u = (1 + word >> 8) / (2**24 + 1), rounded to
    float32.
    """
    width, keys, weights, deduplicate = contexts
    longest = 0
    for a in range(first, last):
        longest = max(longest, offsets[a + 1] - offsets[a])
    table = np.empty(table_size(longest) if deduplicate else 1, np.int64)
    words = np.empty(longest, np.uint32)
    fresh = np.ones(longest, np.bool_)
    for a in range(first, last):
        padded, start = tokens[offsets[a] : offsets[a + 1]], starts[a]
        m = padded.size - start
        state = np.empty((4, m), np.uint32)
        score[a] = 0.0
        counted[a] = m
        for key in range(keys.size):
            token_words(padded, width, keys[key], state, words[:m])
            if key == 0 and deduplicate:
                slots = table[: table_size(m)]
                first_contexts(padded, start, width, state[0], slots, fresh[:m])
                counted[a] = fresh[:m].sum()
            total = 0.0
            for i in range(m):
                if fresh[i]:
                    u = np.float32((np.float64(words[i] >> np.uint32(8)) + 1.0) / 16777217.0)
                    total -= np.log1p(-np.float64(u))
            score[a] += weights[key] * total
