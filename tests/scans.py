"""Small corpora for the tests of scans: token documents of a frequent-token language, some of them watermarked."""

import json

import numpy as np

from wmcore import Detector, Key, Watermark

V = 2048


def watermark(scheme="exp", key=0, **settings):
    """A small watermark."""
    return Watermark.create(
        scheme, vocab_size=V, key=Key(key.to_bytes(32, "little")), **{"key_length": 64, **settings}
    )


def ordinary(rng, length):
    """Tokens of a Zipf-like language: a few are very frequent."""
    return (rng.zipf(1.3, size=length) - 1) % V


def marked(mark, rng, length, share=0.8):
    """Tokens of which this share is the best of the key row that they meet."""
    detector = Detector(mark, threads=1)
    costs = detector.engine.matrix(detector.costs, np.arange(V))
    best = costs[:, (rng.integers(mark.key_length) + np.arange(length)) % mark.key_length]
    return np.where(rng.random(length) < share, best.argmin(axis=0), ordinary(rng, length))


def corpus(path, mark, count, every=25, length=(30, 60), long_every=40, seed=0):
    """Write token documents as JSON Lines; ids m* are watermarked, long ones hold a watermarked passage."""
    rng = np.random.default_rng(seed)
    with open(path, "w") as file:
        for i in range(count):
            tokens = ordinary(rng, int(rng.integers(*length)))
            name = f"d{i}"
            if i % every == 3:
                name, tokens = f"m{i}", marked(mark, rng, 60)
            elif i % long_every == 7:
                name = f"l{i}"
                tokens = np.concatenate(
                    [ordinary(rng, 150), marked(mark, rng, 64), ordinary(rng, 90)]
                )
            file.write(json.dumps({"id": name, "tokens": tokens.tolist()}) + "\n")
    return path


def shard_bytes(folder):
    """{name: bytes} of the shards of an output."""
    return {p.name: p.read_bytes() for p in sorted(folder.glob("part-*.parquet"))}


OPTIONS = {
    "tokens_field": "tokens",
    "id_field": "id",
    "window": 64,
    "stride": 32,
    "resamples": 999,
    "shard_size": 100,
    "seed": 1,
}
