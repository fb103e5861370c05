"""The exact tests behind an audit's verdicts, against enumeration and simulation."""

import itertools
from math import comb

import numpy as np
import pytest

from wmcore.audit import chance


@pytest.mark.parametrize(("draws", "rows"), [(1, 1), (4, 3), (5, 2), (6, 4)])
def test_few_rows_is_the_occupancy_law(draws, rows):
    every = list(itertools.product(range(rows), repeat=draws))
    for most in range(1, draws + 1):
        share = sum(len(set(one)) <= most for one in every) / len(every)
        assert chance.few_rows(most, draws, rows) == pytest.approx(share, rel=1e-12)


def test_one_row_for_all_is_as_seldom_as_it_is():
    assert chance.few_rows(1, 20, 256) == pytest.approx(256.0**-19, rel=1e-9)


def test_chance_repeats_is_the_least_that_is_seldom_exceeded():
    for draws, rows, error in [(12, 256, 1e-4), (40, 64, 1e-3), (3, 8, 0.5)]:
        c = chance.chance_repeats(draws, rows, error)
        assert chance.few_rows(draws - c - 1, draws, rows) <= error
        assert c == 0 or chance.few_rows(draws - c, draws, rows) > error


def test_repeats_are_counted_and_taken_from_the_most_repeated():
    answers = ["a", "a", "a", "b", "b", "c"]
    assert chance.repeats(answers) == 3
    left = chance.without_repeats(answers, 2)
    assert sorted(left) in (["a", "a", "b", "c"], ["a", "b", "b", "c"])
    assert sorted(chance.without_repeats(answers, 9)) == ["a", "b", "c"]


def test_more_repeats_is_the_permutation_test():
    """Of C(8, 4) ways to share out four alike and four different answers, one has all four alike first."""
    p = chance.more_repeats(["a"] * 4, list("bcde"), seed=1)
    exact = 1 / comb(8, 4)
    assert abs(p - exact) < 5 * np.sqrt(exact / chance.PERMUTATIONS)
    assert chance.more_repeats(list("abcd"), ["e"] * 4, seed=1) == 1.0
    assert chance.more_repeats([], [], seed=1) == 1.0


def test_more_repeats_is_valid_where_both_repeat(monkeypatch):
    """Answers of one law with few values: P(p <= a) <= a, within what 200 trials show (a binomial's 1e-6 quantile)."""
    monkeypatch.setattr(chance, "PERMUTATIONS", 1000)
    rng = np.random.default_rng(7)
    p = [
        chance.more_repeats(rng.integers(6, size=8).tolist(), rng.integers(6, size=8).tolist(), i)
        for i in range(200)
    ]
    for level in (0.05, 0.2):
        count = sum(one <= level for one in p)
        assert chance.at_least(count, len(p), level) > 1e-6


def test_combined_is_fishers():
    assert chance.combined([]) == 1.0
    assert chance.combined([0.3]) == pytest.approx(0.3)
    assert chance.combined([1.0, 1.0]) == pytest.approx(1.0)
    # P(U1 U2 <= c) = c (1 - log c)
    assert chance.combined([0.1, 0.2]) == pytest.approx(0.02 * (1 - np.log(0.02)))
