"""Scores of the Gumbel watermark that SGLang writes: contexts and tokens hashed with MurmurHash3 x86 32-bit.

Words are hashed whole, from seed 0. A context is hashed by itself; a token's number is the hash of the key's two words,
of the context's hash and of the token. With two keys a hash of both and of the context says which of them draws.

Loops run over tokens with nothing carried from one to the next, so that LLVM fills vectors with them.
"""

from typing import NamedTuple

import numpy as np

from .contexts import first_contexts, table_size
from .jit import njit


@njit(nogil=True, inline="always")
def _rotated(x, left, right):
    return np.uint32(x << np.uint32(left)) | np.uint32(x >> np.uint32(right))


@njit(nogil=True, inline="always")
def mix(state, word):
    """The state after one more word, uint32 both."""
    word = _rotated(np.uint32(word * np.uint32(0xCC9E2D51)), 15, 17)
    word = np.uint32(word * np.uint32(0x1B873593))
    state = _rotated(np.uint32(state ^ word), 13, 19)
    return np.uint32(np.uint32(state * np.uint32(5)) + np.uint32(0xE6546B64))


@njit(nogil=True, inline="always")
def final(state, count):
    """The hash of `count` words that have been mixed into a state, uint32."""
    state = np.uint32(state ^ np.uint32(4 * count))
    state = np.uint32(state ^ np.uint32(state >> np.uint32(16)))
    state = np.uint32(state * np.uint32(0x85EBCA6B))
    state = np.uint32(state ^ np.uint32(state >> np.uint32(13)))
    state = np.uint32(state * np.uint32(0xC2B2AE35))
    return np.uint32(state ^ np.uint32(state >> np.uint32(16)))


@njit(nogil=True, inline="always")
def _mix_key(state, key):
    low = np.uint32(key & np.uint64(0xFFFFFFFF))
    return mix(mix(state, low), np.uint32(key >> np.uint64(32)))


@njit(nogil=True)
def context_hashes(tokens, start, width, out):
    """out[i] = the hash of the context of token start + i, uint32 [m]: `width` tokens, or as many as there are.

    tokens: uint32 [start + m].
    """
    out[:] = 0
    for back in range(width, 0, -1):
        lacking = max(0, back - start)  # tokens with no token so far back
        states, before = out[lacking:], tokens[start - back + lacking :]
        for i in range(states.size):  # hot loop
            states[i] = mix(states[i], before[i])
    for i in range(out.size):
        out[i] = final(out[i], min(width, start + i))


class Marks(NamedTuple):
    """How SGLang marks a text: width, tokens of a context; keys: uint64 [1 or 2]; threshold: with two keys, the first
    draws where a context's coin is below it, uint64; most: contexts of a text that are marked, the first ones."""

    width: int
    keys: np.ndarray
    threshold: np.uint64
    most: int


@njit(nogil=True)
def token_hashes(tokens, hashes, marks, out):
    """out[i] = the hash of token i under the key that draws after its context, uint32 [m].

    tokens, hashes of contexts: uint32 [m]; marks: `Marks`.
    """
    zero = np.uint32(0)
    keys = marks.keys
    first = _mix_key(zero, keys[0])
    if keys.size == 1:
        for i in range(out.size):  # hot loop
            out[i] = final(mix(mix(first, hashes[i]), tokens[i]), 4)
        return
    second, coin = _mix_key(zero, keys[1]), _mix_key(first, keys[1])
    for i in range(out.size):  # hot loop
        heads = np.uint64(final(mix(coin, hashes[i]), 5)) < marks.threshold
        state = first if heads else second
        out[i] = final(mix(mix(state, hashes[i]), tokens[i]), 4)


@njit(nogil=True, cache=True)
def murmur_scores(tokens, offsets, starts, first, last, marks, score, counted):
    """score[a] = the sum of -log(1 - u) over the tokens of text a with new contexts, counted[a] how many.

    tokens: uint32 [sum m]; offsets: int64 [N + 1]; starts: int64 [N], tokens of each text that are context alone;
    a in [first, last); marks: `Marks`; score: float64 [N]; counted: int64 [N]. u = (hash + 0.5) / 2**32.
    """
    longest = 0
    for a in range(first, last):
        longest = max(longest, offsets[a + 1] - offsets[a])
    table = np.empty(table_size(longest), np.int64)
    hashes = np.empty(longest, np.uint32)
    numbers = np.empty(longest, np.uint32)
    fresh = np.empty(longest, np.bool_)
    for a in range(first, last):
        text, start = tokens[offsets[a] : offsets[a + 1]], starts[a]
        m = text.size - start
        context_hashes(text, start, marks.width, hashes[:m])
        first_contexts(text, start, marks.width, hashes[:m], table[: table_size(m)], fresh[:m])
        token_hashes(text[start:], hashes[:m], marks, numbers[:m])
        score[a] = 0.0
        counted[a] = 0
        for i in range(m):
            if fresh[i]:
                score[a] -= np.log1p(-(np.float64(numbers[i]) + 0.5) / 4294967296.0)
                counted[a] += 1
                if counted[a] == marks.most:
                    break
