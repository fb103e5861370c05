"""Edits of a text's tokens at a given rate, as in the experiments of arXiv 2307.15593 (section 3).

Shared parameters:
    tokens: token ids, int [m] (list or array).
    rate: share of the m tokens, from 0 to 1; round(rate * m) places are edited.
    vocab_size: new tokens are uniform over range(vocab_size).
    seed: anything that ``numpy.random.default_rng`` takes; equal seeds give equal edits.

All return a new array, int64. They raise `WatermarkError` for a rate or size out of range.

>>> substitute([5, 5, 5, 5], 0.5, vocab_size=3, seed=1).tolist()
[5, 2, 0, 5]
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wmcore.checks import real_number, token_ids, whole_number
from wmcore.errors import WatermarkError, reason
from wmcore.types import TokenIds

Tokens = NDArray[np.int64]


def substitute(tokens: TokenIds, rate: float, *, vocab_size: int, seed: Any) -> Tokens:
    """Replace tokens at random places, drawn without replacement, by random tokens."""
    text, count, rng = _prepare(tokens, rate, seed)
    vocab_size = whole_number("vocab_size", vocab_size, 1)
    places = rng.choice(text.size, count, replace=False)
    text[places] = rng.integers(vocab_size, size=count)
    return text


def insert(tokens: TokenIds, rate: float, *, vocab_size: int, seed: Any) -> Tokens:
    """Insert random tokens at random places; the text grows to m + round(rate * m) tokens."""
    text, count, rng = _prepare(tokens, rate, seed)
    vocab_size = whole_number("vocab_size", vocab_size, 1)
    gaps = rng.integers(text.size + 1, size=count)
    return np.insert(text, gaps, rng.integers(vocab_size, size=count))


def delete(tokens: TokenIds, rate: float, *, seed: Any) -> Tokens:
    """Delete tokens at random places; the text shrinks to m - round(rate * m) tokens."""
    text, count, rng = _prepare(tokens, rate, seed)
    return np.delete(text, rng.choice(text.size, count, replace=False))


def damage(tokens: TokenIds, rate: float, *, vocab_size: int, seed: Any) -> Tokens:
    """Substitute, then delete, then insert, each at a third of the rate."""
    rate = real_number("rate", rate, 0, 1)
    rng = np.random.default_rng(seed)
    text = substitute(tokens, rate / 3, vocab_size=vocab_size, seed=rng)
    text = delete(text, rate / 3, seed=rng)
    return insert(text, rate / 3, vocab_size=vocab_size, seed=rng)


def _prepare(tokens: TokenIds, rate: float, seed: Any) -> tuple[Tokens, int, np.random.Generator]:
    """A copy of the tokens, the number of edits and the generator."""
    rate = real_number("rate", rate, 0, 1)
    try:
        text = token_ids(tokens).astype(np.int64)
    except Exception as error:  # a foreign array's own, too
        raise WatermarkError(f"tokens is not a sequence of token ids: {reason(error)}") from None
    return text, round(rate * text.size), np.random.default_rng(seed)
