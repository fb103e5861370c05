"""How sure figures over texts are: shares of n-grams, perplexity, their differences, and rates at given levels."""

from collections.abc import Callable, Mapping, Sequence
from math import exp, fsum
from typing import Any, TypeVar

import numpy as np
from scipy.stats import binom
from scipy.stats import t as student

from wmcore.intervals import SURE, clopper_pearson
from wmcore.paper.labels import number

T = TypeVar("T")


def distinct(texts: Sequence[np.ndarray], n: int) -> float:
    """Different n-grams over all n-grams of int [m] texts, pooled; NaN if no text has n tokens."""
    seen: set[tuple[int, ...]] = set()
    total = 0
    for text in texts:
        tokens = text.tolist()
        seen.update(zip(*(tokens[i:] for i in range(n)), strict=False))
        total += max(0, len(tokens) - n + 1)
    return len(seen) / total if total else float("nan")


def perplexity(texts: Sequence[tuple[float, int]]) -> float:
    """exp of the mean of -log P over all tokens, of texts given as (their mean in nats, their tokens)."""
    total = sum(tokens for _, tokens in texts)
    return exp(fsum(nll * tokens for nll, tokens in texts) / total)


def with_interval(statistic: Callable[[Sequence[T]], float], texts: Sequence[T]) -> dict[str, Any]:
    """The statistic over all texts, and an interval of 95 % that allows for the choice of texts.

    The jackknife (each text left out once; Student's t, N - 1 degrees), for statistics that change little with one
    text: means, perplexity, shares of n-grams. The bootstrap draws texts twice, which repeats all their n-grams, and so
    puts the share of different ones far too low.

    Returns
    -------
    dict
        value, interval ([low, high]), n (texts).

    Raises
    ------
    ValueError
        For fewer than two texts.
    """
    return _jackknife(lambda part: statistic([texts[i] for i in part]), len(texts))


def paired_difference(
    statistic: Callable[[Sequence[T]], float], a: Sequence[T], b: Sequence[T]
) -> dict[str, Any]:
    """statistic(a) - statistic(b), where a[i] and b[i] answer the same prompt; else as `with_interval`."""
    if len(a) != len(b):
        raise ValueError(f"b: {len(b)} texts are not paired with the {len(a)} of a: give as many")

    def difference(part: Sequence[int]) -> float:
        return statistic([a[i] for i in part]) - statistic([b[i] for i in part])

    return _jackknife(difference, len(a))


def _jackknife(value_of: Callable[[Sequence[int]], float], n: int) -> dict[str, Any]:
    if n < 2:
        raise ValueError(f"texts: {n} say nothing of how texts differ: give at least 2")
    value = float(value_of(range(n)))
    without = np.array([value_of([*range(i), *range(i + 1, n)]) for i in range(n)])
    error = float(np.sqrt((n - 1) * without.var()) * student.ppf(SURE[1], n - 1))
    return {"value": value, "interval": [value - error, value + error], "n": n}


def bootstrap_tpr(
    p: Mapping[int, np.ndarray],
    null: Mapping[int, np.ndarray],
    levels: Sequence[float],
    resamples: int,
) -> dict[str, Any]:
    """How often watermarked texts, and others, have p at or below each level, for each length; ready for JSON.

    Parameters
    ----------
    p, null : {tokens: float64 [N]}, p-values of watermarked texts and of texts without a watermark. NaN, not tested,
        counts as 1.
    levels : rates of false positives that are asked for; p is exact, so p <= level has at most this rate.
    resamples : of the test: a level below 1 / (resamples + 1) has no rate but a reason.

    Returns
    -------
    dict
        {"resamples": ..., "lengths": {tokens: {"n", "null_n", "levels": {level: {"tpr", "tpr_interval", "fpr",
        "fpr_interval"}}}}}, or {"tpr": None, "fpr": None, "reason"} for a level. tpr_interval: percentile bootstrap
        over texts; the law of a share of N texts drawn again is binomial(N, share) / N, so nothing is drawn. The share
        is (found + 1/2) / (N + 1) there: 0 or N found texts leave some doubt, too. fpr_interval: Clopper and Pearson.
    """
    if p.keys() != null.keys():
        raise ValueError(f"null: lengths {sorted(null)} are not those of p, {sorted(p)}")
    return {
        "resamples": resamples,
        "lengths": {
            str(length): {
                "n": len(p[length]),
                "null_n": len(null[length]),
                "levels": {
                    number(level, 1): _rates(p[length], null[length], level, resamples)
                    for level in levels
                },
            }
            for length in sorted(p)
        },
    }


def _rates(p: np.ndarray, null: np.ndarray, level: float, resamples: int) -> dict[str, Any]:
    if 1 / (resamples + 1) > level:
        reason = f"p is at least 1 / {resamples + 1:,} with {resamples:,} resamples"
        return {"tpr": None, "fpr": None, "reason": reason}
    hits, n = int((p <= level).sum()), len(p)
    false, null_n = int((null <= level).sum()), len(null)
    return {
        "tpr": hits / n,
        "tpr_interval": (binom.ppf(SURE, n, (hits + 0.5) / (n + 1)) / n).tolist(),
        "fpr": false / null_n,
        "fpr_interval": clopper_pearson(false, null_n),
    }
