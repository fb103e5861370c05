"""Small watermarks of every scheme, and what a detector says of good texts."""

from functools import cache

import numpy as np
from commands import V

from wmcore import Detector, Key, Watermark
from wmcore.learned_scores import Origin, ProxyScores, TokenScores
from wmcore.schemes import SCHEMES

SECRET = bytes(range(64, 96))
HEX = SECRET.hex()
SIZES = {"vocab_size": V, "key_length": 40}
OPTIONS = {"resamples": 9, "seed": 3}


@cache
def mark(scheme, block=None):
    """A watermark for the letters of `commands`, with the secret HEX."""
    return Watermark.create(
        scheme, block_length=block, key=Key(SECRET), tokenizer="letters", **SIZES
    )


@cache
def scores(kind):
    """Learnt scores of two bins, "tokens" or "proxy"."""
    origin = Origin("letters", 0.7, 0.9, 3, 500)
    probabilities = [[0.1, 0.2], [0.5, 1.0]]
    if kind == "proxy":
        return ProxyScores(probabilities, [64.5], origin)
    return TokenScores(probabilities, np.arange(V, dtype=np.uint8) % 2, origin)


@cache
def detector(scheme, block=None):
    """Its detector, without a tokenizer."""
    return Detector(mark(scheme, block), threads=1)


def detectors():
    """Strategy: a detector of each scheme, of whole texts and of blocks."""
    from hypothesis import strategies as st

    return st.builds(detector, st.sampled_from(list(SCHEMES)), st.sampled_from([None, None, 4]))


@cache
def alone(of, ids):
    """What a detector says of one plain text (a tuple)."""
    (found,) = of.detect([list(ids)], **OPTIONS)
    return found
