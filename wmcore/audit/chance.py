"""What chance does: the exact tests behind the verdicts of an audit.

A set-up that is sound must not fail its audit more often than `ERROR`. So each of the `TESTS` tests of an audit may
call a sound set-up bad with a probability of at most `SHARE`, and Bonferroni's inequality adds them up, whatever they
have to do with each other. What holds is said at each test; "the key" is the one audited, and fixed: marked texts
are independent given the key, because each has a shift of its own.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

ERROR = 0.001
"""At most this is the chance that an audit calls a sound set-up bad."""

TESTS = 6
"""Tests of an audit that can call it bad: texts found, unmarked texts found, texts found under other keys at two
levels, rows, repeated answers."""

SHARE = ERROR / TESTS

PERMUTATIONS = 200_000


def at_least(count: int, trials: int, rate: float) -> float:
    """P(X >= count) of a binomial X."""
    from scipy.stats import binom

    return float(binom.sf(count - 1, trials, rate))


def at_most(count: int, trials: int, rate: float) -> float:
    """P(X <= count) of a binomial X."""
    from scipy.stats import binom

    return float(binom.cdf(count, trials, rate))


def few_rows(distinct: int, draws: int, rows: int) -> float:
    """P(D <= distinct) for the number D of different rows among independent, uniform draws: the occupancy law.

    From d rows a further draw finds a new one with probability (rows - d) / rows. Time: draws * distinct.
    """
    law = np.zeros(distinct + 1)
    law[0] = 1.0
    seen = np.arange(distinct + 1)
    for _ in range(draws):
        new = law * (1 - np.minimum(seen / rows, 1.0))
        law *= np.minimum(seen / rows, 1.0)
        law[1:] += new[:-1]
    return min(1.0, float(law.sum()))


def chance_repeats(draws: int, rows: int, error: float) -> int:
    """The least c such that more than c of the draws repeat an earlier row with a probability of at most `error`."""
    for repeats in range(draws):
        if few_rows(draws - repeats - 1, draws, rows) <= error:
            return repeats
    return draws


def repeats(answers: Sequence[Hashable]) -> int:
    """How many answers repeat another one: their number less that of different ones."""
    return len(answers) - len(set(answers))


def without_repeats(answers: Sequence[Hashable], count: int) -> list[Hashable]:
    """The answers without `count` repeats, each taken from those that are the most repeated by then."""
    left = Counter(answers)
    for _ in range(count):
        answer, times = left.most_common(1)[0]
        if times == 1:
            break
        left[answer] -= 1
    return list(left.elements())


def more_repeats(first: Sequence[Hashable], second: Sequence[Hashable], seed: int) -> float:
    """p of the test whether the first answers repeat themselves more than the second do.

    If all are independent draws of one law, each way to share them out is as likely as another: p is the share of
    `PERMUTATIONS` of them (and of what was seen) in which the first repeat themselves as much or more. Exact.
    """
    names = {answer: number for number, answer in enumerate({*first, *second})}
    pool = np.array([names[answer] for answer in (*first, *second)], np.int64)
    seen = repeats(first)
    if not len(first) or seen == 0:
        return 1.0
    rng = np.random.default_rng(seed)
    as_many = 0
    for start in range(0, PERMUTATIONS, 10_000):
        count = min(10_000, PERMUTATIONS - start)
        taken = rng.permuted(np.tile(pool, (count, 1)), axis=1)[:, : len(first)]
        taken.sort(axis=1)
        distinct = 1 + (np.diff(taken, axis=1) != 0).sum(axis=1)
        as_many += int((len(first) - distinct >= seen).sum())
    return (1 + as_many) / (1 + PERMUTATIONS)


def combined(p_values: Sequence[float]) -> float:
    """Fisher's p of independent p-values together: -2 sum log p has at most a chi-squared law of 2 m."""
    from scipy.stats import chi2

    if not len(p_values):
        return 1.0
    return float(chi2.sf(-2 * math.fsum(map(math.log, p_values)), 2 * len(p_values)))
