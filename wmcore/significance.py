"""From phi to p: the permutation test, with a fixed number of resamples or stopped early.

Fixed (paper, Algorithm 2): p = (1 + #{t : phi_t <= phi}) / (T + 1), exact for independent, exchangeable keys.

Stopped early (Besag and Clifford, 1991): when the h-th resample with phi_t <= phi is resample number l, p = h / l;
if all T are used first, p is as above. Without a watermark, p <= h / l exactly when at most h - 1 of the first
l - 1 resamples are hits, which has probability h / l by exchangeability: so p is valid, at a fraction of the cost.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from wmcore.engine import Engine, Packed
from wmcore.errors import WatermarkError, shown
from wmcore.kernels.problem import Resamples

# A round of resamples is looked at as a whole: at most this many, and this many bytes for all texts.
_ROUND = 1 << 16
_ROUND_BYTES = 1 << 24
_SEED_BITS = 4096  # Python refuses to write much longer numbers


@dataclass(frozen=True)
class Significance:
    """p_value: float64 [N]; hits: int64 [N], resamples with phi_t <= phi; resamples: int64 [N], those used."""

    p_value: np.ndarray
    hits: np.ndarray
    resamples: np.ndarray


def seed_key(seed: int, salt: bytes = b"") -> np.ndarray:
    """The ChaCha key of the resamples of a seed: uint32 [8].

    salt: `Key.salt`. Without it an author who knows the seed knows the resampled keys, and can write a text that fits
    none of them: with some search over repeated tokens such a text reached p <= 0.01 under 21 % of random keys.
    """
    if (
        isinstance(seed, bool)
        or not isinstance(seed, (int, np.integer))
        or int(seed).bit_length() > _SEED_BITS
    ):
        raise WatermarkError(
            f"seed is {shown(seed)}, but must be a whole number, or None for the key's own, and of at most "
            f"{_SEED_BITS:,} bits"
        )
    digest = hashlib.sha256(b"wmcore resamples\x00" + str(int(seed)).encode() + salt).digest()
    return np.frombuffer(digest, "<u4").astype(np.uint32)


def derived_seed(seed: int, *parts: object) -> int:
    """A 63-bit seed made of another one and a label."""
    text = "\x00".join(["wmcore scan", str(seed), *map(str, parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def permutation_test(
    engine: Engine,
    texts: Packed,
    value: np.ndarray,
    *,
    resamples: int,
    stop_after: int | None,
    seed: int,
    salt: bytes = b"",
) -> Significance:
    """p of each text from resampled keys.

    value: int32 [N], the observed statistics as `Engine.fit` gives them; the same kernel and the same integer costs
    decide about the resamples. Memory does not grow with the number of resamples. Resample t depends only on
    (seed, salt, t): neither the batch nor the threads change a result.
    """
    key = seed_key(seed, salt)
    count = texts.size
    hits = np.zeros(count, np.int64)
    used = np.zeros(count, np.int64)
    most = max(32, min(_ROUND, _ROUND_BYTES // max(count, 1) // 32 * 32))
    size = most if stop_after is None else min(most, _round_up(2 * stop_after))
    first = 0
    while first < resamples:
        stop = min(first + size, resamples)
        limit = np.full(count, stop - first) if stop_after is None else stop_after - hits
        if not limit.any():
            break
        some = Resamples(key, first, stop)
        found, seen = engine.tally(texts, value, limit, some)
        hits += found
        used += seen
        if stop_after is not None:
            size = min(most, 2 * size)
        first = stop
    p_value = (1.0 + hits) / (resamples + 1.0)
    if stop_after is not None:
        p_value = np.where(hits >= stop_after, hits / np.maximum(used, 1), p_value)
    return Significance(p_value, hits, used)


def _round_up(count: int) -> int:
    return (count + 31) // 32 * 32
