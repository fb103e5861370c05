"""Values of groups of texts with their intervals: worked out by hand, and how often they hold the truth."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmcore.intervals import clopper_pearson
from wmcore.paper.intervals import (
    bootstrap_tpr,
    distinct,
    paired_difference,
    perplexity,
    with_interval,
)


def test_distinct_by_hand():
    texts = [np.array([1, 2, 1, 2, 3]), np.array([1, 2]), np.array([7])]
    assert distinct(texts, 1) == 4 / 8
    assert distinct(texts, 2) == 3 / 5  # 12 21 12 23, 12
    assert distinct(texts, 3) == 1.0  # 121 212 123
    assert math.isnan(distinct(texts, 6))


@given(st.lists(st.lists(st.integers(0, 3), max_size=12), max_size=5), st.integers(1, 4))
def test_distinct_is_that_of_a_plain_count(texts, n):
    grams = [tuple(t[i : i + n]) for t in texts for i in range(len(t) - n + 1)]
    found = distinct([np.array(t, int) for t in texts], n)
    assert found == len(set(grams)) / len(grams) if grams else math.isnan(found)


def test_perplexity_weighs_tokens():
    assert perplexity([(1.0, 30), (3.0, 10)]) == pytest.approx(math.exp(1.5))


def test_the_interval_of_a_mean_is_students():
    found = with_interval(np.mean, [1.0, 2.0, 6.0])
    half = 4.302653 * math.sqrt(7 / 3)  # t of 2 degrees; variance (4 + 1 + 9) / 2 over 3 texts
    assert found == {"value": 3.0, "interval": pytest.approx([3 - half, 3 + half]), "n": 3}
    assert json.loads(json.dumps(found)) == found


def zipf_texts(rng, count=40, length=30):
    """Texts of frequent and rare tokens."""
    weights = 1 / np.arange(1, 2001)
    return list(rng.choice(2000, size=(count, length), p=weights / weights.sum()))


def covered(truth, interval_of, tries):
    found = [interval_of(zipf_texts(np.random.default_rng(i))) for i in range(tries)]
    return sum(low <= truth <= high for low, high in found)


def test_intervals_of_distinct_ngrams_cover_where_the_bootstrap_fails():
    """200 times: at a true 95 %, fewer than 180 have probability 1e-3."""
    others = (zipf_texts(np.random.default_rng(10_000 + i)) for i in range(500))
    truth = np.mean([distinct(texts, 2) for texts in others])

    def bootstrap(texts):
        rng = np.random.default_rng(1)
        again = [distinct([texts[j] for j in rng.integers(40, size=40)], 2) for _ in range(40)]
        return np.quantile(again, [0.025, 0.975])

    ours = covered(truth, lambda t: with_interval(lambda x: distinct(x, 2), t)["interval"], 200)
    assert 180 <= ours < 200
    assert covered(truth, bootstrap, 10) == 0


def test_a_paired_difference_of_a_mean_is_that_of_the_differences():
    rng = np.random.default_rng(5)
    common = rng.normal(size=50)
    a, b = common + rng.normal(size=50) / 10 + 0.1, common + rng.normal(size=50) / 10
    found = paired_difference(np.mean, a, b)
    expected = with_interval(np.mean, a - b)
    assert found["value"] == pytest.approx(expected["value"])
    assert found["interval"] == pytest.approx(expected["interval"])


def test_intervals_refuse_what_says_nothing():
    with pytest.raises(ValueError, match="texts: 1 say nothing"):
        with_interval(np.mean, [1.0])
    with pytest.raises(ValueError, match="b: 1 texts are not paired with the 2 of a"):
        paired_difference(np.mean, [1.0, 2.0], [1.0])


def test_rates_by_hand():
    p = {64: np.array([0.001] * 8 + [0.5, np.nan]), 32: np.full(4, 0.01)}
    null = {64: np.linspace(0.005, 1, 200), 32: np.ones(10)}
    found = json.loads(json.dumps(bootstrap_tpr(p, null, [0.01, 0.001, 1e-4], 999)))
    assert list(found["lengths"]) == ["32", "64"]
    bucket = found["lengths"]["64"]
    assert (bucket["n"], bucket["null_n"]) == (10, 200)
    assert list(bucket["levels"]) == ["0.01", "0.001", "0.0001"]
    at = bucket["levels"]["0.01"]
    assert (at["tpr"], at["fpr"]) == (0.8, 0.01)
    # Bin(10, 8.5 / 11): P(<= 4) = 1.0 %, P(<= 5) = 4.4 %; P(<= 9) = 92.4 %.
    assert at["tpr_interval"] == [0.5, 1.0]
    # Clopper and Pearson for 2 of 200, from tables.
    assert at["fpr_interval"] == pytest.approx([0.0012, 0.0357], abs=5e-5)
    assert bucket["levels"]["0.001"]["tpr"] == 0.8
    assert bucket["levels"]["0.0001"] == {
        "tpr": None,
        "fpr": None,
        "reason": "p is at least 1 / 1,000 with 999 resamples",
    }
    assert found["lengths"]["32"]["levels"]["0.01"]["tpr"] == 1.0
    assert found["lengths"]["32"]["levels"]["0.01"]["tpr_interval"][0] < 1
    with pytest.raises(ValueError, match=r"null: lengths \[32\] are not those of p, \[32, 64\]"):
        bootstrap_tpr(p, {32: np.ones(3)}, [0.01], 999)


def test_the_interval_of_a_rate_is_the_bootstraps():
    """Against 20,000 draws of texts of which (37 + 1/2) / (50 + 1) are found: a quantile is off by a text at most."""
    p = np.where(np.arange(50) < 37, 0.001, 0.5)
    found = bootstrap_tpr({8: p}, {8: p}, [0.01], 999)["lengths"]["8"]["levels"]["0.01"]
    drawn = np.random.default_rng(2).random((20_000, 50)) < 37.5 / 51
    expected = np.quantile(drawn.mean(axis=1), [0.025, 0.975])
    assert found["tpr_interval"] == pytest.approx(expected, abs=0.0201)


def test_clopper_pearson_at_the_ends():
    assert clopper_pearson(0, 100) == pytest.approx([0, 1 - 0.025 ** (1 / 100)])
    assert clopper_pearson(100, 100) == pytest.approx([0.025 ** (1 / 100), 1])
