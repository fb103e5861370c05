"""A toy language, whose tokens' probabilities are known, and a proxy that knows it: for tests of learnt scores.

After a token that is a multiple of four any token may follow; after another one the next in order does, almost always.
"""

import numpy as np

V = 50
SURE = 0.98


def laws():
    """The law of the token that follows each: float64 [V, V]."""
    table = np.full((V, V), (1 - SURE) / (V - 1))
    for before in range(V):
        table[before, (before + 1) % V] = SURE
    table[::4] = 1 / V
    return table


LAWS = laws()


def proxy(tokens):
    """log P of each token after the one before it; of the first, as if any may come."""
    z = np.full(len(tokens), np.log(1 / V))
    z[1:] = np.log(LAWS[tokens[:-1], tokens[1:]])
    return z


def unmarked(rng, length):
    """A text of ordinary draws."""
    tokens = [int(rng.integers(V))]
    while len(tokens) < length:
        tokens.append(int(rng.choice(V, p=LAWS[tokens[-1]])))
    return np.array(tokens)


def marked(watermark, rng, length):
    """A text drawn from a watermark's key, from a random shift on."""
    import torch

    from wmcore.sampling import watermarked

    draw, shift = watermarked(watermark), int(rng.integers(watermark.key_length))
    tokens = []
    for i in range(length):
        law = LAWS[tokens[-1]] if tokens else np.full(V, 1 / V)
        row = np.array([(shift + i) % watermark.key_length])
        tokens.append(int(draw(torch.tensor(np.log(law))[None], row, 1.0)[0]))
    return np.array(tokens)


def samples(count, length, seed):
    """Unmarked texts with p and z, as `learning.fit_scores` takes them."""
    from wmcore.learning import Sample

    rng = np.random.default_rng(seed)
    texts = [unmarked(rng, length) for _ in range(count)]
    return [Sample(text, np.exp(proxy(text)), proxy(text)) for text in texts]
