"""What the recorded cases share: numbers that never change, keys, watermarks, texts, and short forms of answers."""

import hashlib
import json

import numpy as np
import torch

from wmcore import Key, Watermark, sampling

V = 61
"""The usual vocabulary of a case: small, and no multiple of anything."""

SECRET = bytes(range(7, 39))
KEYS = ("chacha", "torch", "mersenne")

THREADS: list[int | None] = [None]
"""CPU threads of every call, in a list so that the maker can set it. No result may depend on it."""


PUBLISHED_GAPS = {"exp": 0.0, "exp-edit": 0.0, "its": 0.0, "its-edit": 0.4}


def words(name: str, count: int) -> np.ndarray:
    """Uniform words made of a name by SHAKE-256: uint64 [count]. The same on every machine and in every version."""
    return np.frombuffer(hashlib.shake_256(name.encode()).digest(8 * count), "<u8")


def below(name: str, count: int, limit: int) -> np.ndarray:
    """Whole numbers from 0 to limit - 1: int64 [count]."""
    return (words(name, count) % np.uint64(limit)).astype(np.int64)


def unit(name: str, count: int) -> np.ndarray:
    """Multiples of 2**-32 in [0, 1): float64 [count]."""
    return (words(name, count) >> np.uint64(32)).astype(np.float64) / 2**32


def mark_of(scheme: str, key: str, **settings) -> Watermark:
    """A watermark with one of `KEYS`; settings as for `Watermark.create`. A gap of None is the published one."""
    settings = {"vocab_size": V, **settings}
    if settings.get("gap") is None:
        settings["gap"] = PUBLISHED_GAPS[scheme]
    if key == "chacha":
        return Watermark.create(scheme, key=Key(SECRET), **settings)
    return Watermark.published(scheme, seed=1234, generator=key, **settings)


def marked(mark: Watermark, length: int, shift: int) -> np.ndarray:
    """The text that a model of equal probabilities writes with a watermark, from a key row: int64 [length]."""
    logits = torch.zeros(length, mark.vocab_size)
    rows = (shift + np.arange(length)) % mark.key_length
    return sampling.watermarked(mark)(logits, rows, 1.0).numpy()


def damaged(mark: Watermark, length: int, shift: int, name: str) -> np.ndarray:
    """`marked`, of which about every second token is replaced and two are lost."""
    text = marked(mark, length + 2, shift)
    text = np.delete(text, [length // 3, 2 * length // 3])
    other = below(name + " tokens", length, mark.vocab_size)
    return np.where(unit(name + " where", length) < 0.5, other, text)


def digest(value: object) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a JSON value or of an array's bytes."""
    if isinstance(value, np.ndarray):
        data = f"{value.dtype.str}{value.shape}".encode() + np.ascontiguousarray(value).tobytes()
    else:
        data = json.dumps(value, sort_keys=True, allow_nan=False).encode()
    return hashlib.sha256(data).hexdigest()[:16]


def share(p: float, hits: int, resamples: int) -> str:
    """p in short: "=h/l" for p == h / l, "+h/l" for p == (1 + h) / (l + 1), exactly; else all three numbers."""
    if p == (1 + hits) / (resamples + 1):
        return f"+{hits}/{resamples}"
    if p == hits / resamples:
        return f"={hits}/{resamples}"
    return f"{p!r} {hits}/{resamples}"


def verdict(found) -> str:
    """Method, p-value, hits and resamples of a `Detection` in short; "error" for a text that was refused."""
    if found.error is not None:
        values = (found.p_value, found.statistic, found.shift, found.block, found.method)
        assert all(value is None for value in values), found
        return "error"
    assert found.method is not None
    initial = "" if found.method == "permutation" else found.method[0]
    return initial + share(found.p_value, found.hits, found.resamples)


def fit(found) -> list | None:
    """Statistic, shift, block and length of a `Detection` or an `Identification`; None with an error."""
    if found.error is not None:
        return None
    return [found.statistic, found.shift, found.block, found.length]
