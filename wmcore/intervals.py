"""Intervals of 95 % for a share: of independent texts, and of texts that were tested under several keys."""

import math

import numpy as np

SURE = (0.025, 0.975)
"""Quantiles: every interval is one of 95 %."""


def clopper_pearson(found: float, n: float, error: float = 0.05) -> list[float]:
    """[low, high] that covers the probability of `found` in n, whatever it is: each end is wrong with a probability of
    at most error / 2 (Clopper and Pearson 1934). Both numbers may be no whole ones, as those of `by_keys`."""
    from scipy.stats import beta

    low = beta.ppf(error / 2, found, n - found + 1) if found > 0 else 0.0
    high = beta.ppf(1 - error / 2, found + 1, n - found) if found < n else 1.0
    return [float(low), float(high)]


def design_effect(counts: np.ndarray, n: int) -> float:
    """How many times the variance of a share is that of independent texts, at least 1.

    counts: int [K], K >= 2: texts found under each key, of n that are the same under all.
    """
    shares = np.asarray(counts) / n
    mean = float(shares.mean())
    alone = mean * (1 - mean) / n
    return max(1.0, float(shares.var(ddof=1)) / alone) if alone > 0 else 1.0


def by_keys(counts: np.ndarray, n: int, effect: float) -> list[float]:
    """[low, high] of the share of n texts that a key finds, from K >= 2 keys that found `counts`: int [K].

    Texts that share words depend on each other under one key, so K n texts tell less than as many independent ones: as
    much as K n / `effect` (`design_effect`), less the doubt about that number (Korn and Graubard 1998).
    """
    from scipy.stats import t as student

    keys = len(counts)
    total = keys * n
    doubt = (student.ppf(SURE[1], total - 1) / student.ppf(SURE[1], keys - 1)) ** 2
    size = total / effect * float(doubt)
    share = math.fsum(counts) / total
    return clopper_pearson(share * size, size)
