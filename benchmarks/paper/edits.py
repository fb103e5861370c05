"""Attacks on tokens, as in the published scripts of arXiv 2307.15593: `TokenAttack` functions.

All take tokens (int64 [m]), rate (share of the m tokens, from 0 to 1), vocab_size and a NumPy generator, and return new
tokens, int64. The edits are those of `wmcore.attacks`, but int(rate * m) of them, rounded down as published. New tokens
are uniform over range(vocab_size). The published insertion takes places without replacement and never the text's end;
ours may take a place twice, or the end. A WatermarkError tells of a rate or vocabulary out of range.
"""

import numpy as np

from wmcore import attacks
from wmcore.checks import real_number


def substitution(
    tokens: np.ndarray, rate: float, vocab_size: int, rng: np.random.Generator
) -> np.ndarray:
    """Replace int(rate * m) tokens."""
    return attacks.substitute(tokens, _floored(tokens, rate), vocab_size=vocab_size, seed=rng)


def insertion(
    tokens: np.ndarray, rate: float, vocab_size: int, rng: np.random.Generator
) -> np.ndarray:
    """Insert int(rate * m) tokens: int64 [m + int(rate * m)]."""
    return attacks.insert(tokens, _floored(tokens, rate), vocab_size=vocab_size, seed=rng)


def deletion(
    tokens: np.ndarray, rate: float, vocab_size: int, rng: np.random.Generator
) -> np.ndarray:
    """Delete int(rate * m) tokens: int64 [m - int(rate * m)]. The vocabulary is of no account."""
    return attacks.delete(tokens, _floored(tokens, rate), seed=rng)


def mixture(
    tokens: np.ndarray, rate: float, vocab_size: int, rng: np.random.Generator
) -> np.ndarray:
    """Deletion, then insertion, then substitution, each at a third of the rate (of the length that it is given)."""
    rate = real_number("rate", rate, 0, 1)
    for edit in (deletion, insertion, substitution):
        tokens = edit(tokens, rate / 3, vocab_size, rng)
    return tokens


def _floored(tokens: np.ndarray, rate: float) -> float:
    """The rate at which `wmcore.attacks`, which rounds to the nearest number, makes int(rate * m) edits."""
    m = len(tokens)
    return int(real_number("rate", rate, 0, 1) * m) / max(m, 1)
