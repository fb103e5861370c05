"""Intervals of shares: against the definition of Clopper and Pearson, and where keys say the same of all texts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from wmcore.intervals import by_keys, clopper_pearson, design_effect


@given(st.integers(1, 60), st.data())
def test_clopper_pearson_is_its_definition(n, data):
    """At each end, what was seen or more (or less) has a probability of 2.5 %."""
    found = data.draw(st.integers(0, n))
    low, high = clopper_pearson(found, n)
    assert 0 <= low <= found / n <= high <= 1
    assert (low == 0) == (found == 0)
    assert (high == 1) == (found == n)
    if found:
        assert binom.sf(found - 1, n, low) == pytest.approx(0.025)
    if found < n:
        assert binom.cdf(found, n, high) == pytest.approx(0.025)


def test_the_design_effect_is_a_ratio_of_variances():
    counts = np.array([0, 4, 8, 4])
    mean = counts.mean() / 20
    wanted = ((counts / 20 - mean) ** 2).sum() / 3 / (mean * (1 - mean) / 20)
    assert design_effect(counts, 20) == pytest.approx(wanted)
    assert design_effect(np.array([4, 4, 4, 4]), 20) == 1.0  # never less
    assert design_effect(np.zeros(4, int), 20) == 1.0


@given(st.lists(st.integers(0, 30), min_size=2, max_size=20), st.floats(1, 30))
def test_several_keys_are_never_surer_than_independent_texts(counts, effect):
    low, high = by_keys(np.array(counts), 30, effect)
    alone = clopper_pearson(sum(counts), 30 * len(counts))
    assert low <= alone[0] + 1e-12
    assert high >= alone[1] - 1e-12


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5])
def test_texts_that_all_say_the_same_count_as_one(rate):
    """A key finds all 50 texts or none: then 19 keys tell as much as 19 texts, and the interval must say so."""
    keys, n = 19, 50
    covered = 0.0
    for found in range(keys + 1):
        counts = np.repeat([n, 0], [found, keys - found])
        low, high = by_keys(counts, n, design_effect(counts, n))
        if low <= rate <= high:
            covered += binom.pmf(found, keys, rate)
    alike = rate**keys + (1 - rate) ** keys  # all keys say the same: no doubt can be seen
    assert covered >= 0.95 - alike
    counts = np.repeat([n, 0], [6, 13])
    low, high = by_keys(counts, n, design_effect(counts, n))
    assert high - low > np.ptp(clopper_pearson(6, 19))


def test_clopper_pearson_at_another_error():
    low, high = clopper_pearson(3, 20, 0.1)
    assert binom.sf(2, 20, low) == pytest.approx(0.05)
    assert binom.cdf(3, 20, high) == pytest.approx(0.05)
