"""Edits of tokens: exact counts, seeds, bad input."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmcore.attacks import damage, delete, insert, substitute
from wmcore.errors import WatermarkError

TEXT = np.arange(1000, 1100)


@given(st.integers(0, 300), st.floats(0, 1), st.integers(0, 2**31))
def test_counts_are_exact(m, rate, seed):
    """Old tokens are 1000 and up, new ones 0 to 9, so that every edit can be seen."""
    text = np.arange(1000, 1000 + m)
    count = round(rate * m)
    changed = substitute(text, rate, vocab_size=10, seed=seed)
    assert changed.shape == (m,)
    assert np.sum(changed < 10) == count
    assert np.array_equal(changed[changed >= 10], text[changed >= 10])
    longer = insert(text, rate, vocab_size=10, seed=seed)
    assert longer.shape == (m + count,)
    assert np.array_equal(longer[longer >= 10], text)
    shorter = delete(text, rate, seed=seed)
    assert shorter.shape == (m - count,)
    assert np.all(np.diff(shorter) > 0)
    assert np.isin(shorter, text).all()


def test_places_and_tokens_are_uniform():
    """20,000 edits over 100 places and 5 tokens; 6 standard errors of a binomial count."""
    places, tokens = np.zeros(100), np.zeros(5)
    for seed in range(2000):
        changed = substitute(TEXT, 0.1, vocab_size=5, seed=seed)
        places += changed < 5
        tokens += np.bincount(changed[changed < 5], minlength=5)
    assert np.all(np.abs(places - 200) < 6 * np.sqrt(2000 * 0.1 * 0.9))
    assert np.all(np.abs(tokens - 4000) < 6 * np.sqrt(20_000 * 0.2 * 0.8))


def test_seeds_repeat_and_input_is_kept():
    text = TEXT.tolist()
    for attack in (substitute, insert, damage):
        one, two, other = (attack(text, 0.3, vocab_size=50, seed=s) for s in (1, 1, 2))
        assert one.dtype == np.int64
        assert np.array_equal(one, two)
        assert not np.array_equal(one, other)
    assert np.array_equal(delete(text, 0.3, seed=1), delete(text, 0.3, seed=1))
    assert text == TEXT.tolist()


def test_damage_is_a_third_of_each():
    damaged = damage(TEXT, 0.3, vocab_size=10, seed=1)
    assert damaged.size == 100 - 10 + 9
    assert 80 <= np.sum(damaged >= 1000) <= 90


@pytest.mark.parametrize("rate", [-0.1, 1.1, 3, float("nan"), "x", True])
def test_bad_rates(rate):
    with pytest.raises(WatermarkError, match=r"rate is .*, but must be a number from 0 to 1"):
        delete(TEXT, rate, seed=1)
    with pytest.raises(WatermarkError, match="rate is"):
        damage(TEXT, rate, vocab_size=9, seed=1)


def test_bad_sizes_and_shapes():
    with pytest.raises(WatermarkError, match="vocab_size is 0"):
        substitute(TEXT, 0.5, vocab_size=0, seed=1)
    with pytest.raises(
        WatermarkError, match="tokens is not a sequence of token ids: it has 2 dimensions"
    ):
        delete(TEXT.reshape(10, 10), 0.5, seed=1)
    for tokens in ([1.7, 2.2], np.ma.array([1, 2]), [True, 3], None, ["1"]):
        with pytest.raises(WatermarkError, match="tokens is not a sequence of token ids"):
            delete(tokens, 0.5, seed=1)
    assert substitute(TEXT, np.float32(0.5), vocab_size=np.uint8(9), seed=1).dtype == np.int64
