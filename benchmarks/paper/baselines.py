"""What the published baselines share: numbers from a text's secret, and the permutation test over keys."""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from wmcore.paper.contract import Trial

Statistic = Callable[[np.ndarray, bytes, np.random.Generator], tuple[int, np.ndarray] | None]
"""(text int64 [m], secret, rng) -> the statistic with the text's key, and under T other keys, int64 [T]; high is
evidence of the mark. None for a text without a scored token.
"""


def key_numbers(secret: bytes, purpose: str, count: int) -> list[int]:
    """`count` numbers in [0, 2^63) of a secret, by SHAKE-256; those of two purposes are independent."""
    stream = hashlib.shake_256(purpose.encode() + b"\x00" + secret).digest(8 * count)
    return (np.frombuffer(stream, "<u8") >> np.uint64(1)).tolist()


def permutation_p_values(
    texts: Sequence[np.ndarray], secrets: Sequence[bytes], trial: Trial, statistic: Statistic
) -> np.ndarray:
    """p = (1 + #{t: S_t >= S}) / (T + 1) of each text, float64 [N]; NaN where there is no statistic.

    All T = `trial.resamples` keys are used: they cost so little that `trial.stop_after` would save nothing. Those of a
    text depend on (`trial.seed`, secret, text) alone, not on its neighbours.
    """
    p = np.full(len(texts), np.nan)
    for i, (text, secret) in enumerate(zip(texts, secrets, strict=True)):
        text = np.asarray(text, np.int64)
        content = f"{trial.seed}\x00".encode() + secret + text.tobytes()
        seed = int.from_bytes(hashlib.sha256(content).digest(), "little")
        found = statistic(text, secret, np.random.default_rng(seed))
        if found is not None:
            observed, others = found
            p[i] = (1 + np.count_nonzero(others >= observed)) / (len(others) + 1)
    return p
