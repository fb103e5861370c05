"""The sampling kernels against their brute-force twins, and the law of the draws against theory."""

import math

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from scipy import stats

from wmcore.kernels.constants import DOMAIN_EXP
from wmcore.kernels.cpu import sample
from wmcore.kernels.cpu.simd import load_i32, store

SECRET = np.arange(8, dtype=np.uint32) * np.uint32(0x9E3779B9)
SIZES = st.sampled_from([1, 2, 15, 16, 17, 255, 256, 257, 511, 513, 1000, 3000])
SCALES = st.sampled_from([0.0, 1.0, 5.0, 30.0, 1e4, 1e6])
EXTREME_WORDS = [0, 1, 2, 2**31 - 1, 2**31, 3037000499, 3037000500, 2**32 - 2, 2**32 - 1]


@njit
def gumbel_table(words, out):
    for i in range(0, words.size, 16):
        store(out, i, sample.gumbel(load_i32(words, i)))


@njit
def weight_row(logits, inverse_temperature):
    weights = np.empty((logits.size + 15) // 16 * 16, np.int32)
    total = sample.its_weights(logits, 0, logits.size, inverse_temperature, weights)
    return weights[: logits.size], total


def gumbel_numbers(words):
    """The kernel's float32 Gumbel numbers of any number of words."""
    padded = np.zeros(-(-words.size // 16) * 16, np.uint32)
    padded[: words.size] = words
    out = np.empty(padded.size, np.float32)
    gumbel_table(padded.view(np.int32), out)
    return out[: words.size]


def key_row(row, n_tokens):
    blocks = [
        naive.chacha_block(SECRET, counter, DOMAIN_EXP, row, 8)
        for counter in range(-(-n_tokens // 256) * 16)
    ]
    words = [blocks[16 * (v // 256) + v % 16][v // 16 % 16] for v in range(n_tokens)]
    return np.array(words, np.uint32)


def make_logits(rng, rows, n_tokens, scale, holes):
    logits = (rng.normal(0, 1, (rows, n_tokens)) * scale).astype(np.float32)
    if holes:
        logits[rng.random(logits.shape) < 0.3] = -np.inf
        logits[rng.random(logits.shape) < 0.1] = np.nan
    return logits


def exp_sample(logits, inverse_temperature, rows):
    out = np.full(len(rows), -7, np.int64)
    rows = np.asarray(rows, np.int64)
    sample.exp_sample(logits, np.float32(inverse_temperature), SECRET, DOMAIN_EXP, rows, out)
    return out


def its_sample(logits, inverse_temperature, order, words):
    out = np.full(len(words), -7, np.int64)
    sample.its_sample(logits, np.float32(inverse_temperature), order, words, out)
    return out


def test_gumbel_matches_float64():
    rng = np.random.default_rng(1)
    near_one = 2**32 - 1 - np.unique(np.geomspace(1, 2**31, 4000).astype(np.int64))
    near_zero = np.unique(np.geomspace(1, 2**31, 4000).astype(np.int64))
    words = np.concatenate([EXTREME_WORDS, near_one, near_zero, rng.integers(0, 2**32, 20_000)])
    words = words.astype(np.uint32)
    expected = np.array([naive.gumbel(w) for w in words])
    got = gumbel_numbers(words)
    # Half a unit of float32 at 22.9 is 9.5e-7; near 0 the polynomials leave about 1e-7.
    assert np.max(np.abs(got - expected) / np.maximum(np.abs(expected), 1)) < 3e-7
    assert got.max() < sample.GUMBEL_MAX
    assert got[np.argmax(words)] == pytest.approx(33 * math.log(2), abs=2e-6)


@given(SIZES, SCALES, st.sampled_from([1.0, 0.5, 2.0, 16.0]), st.booleans(), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_exp_equals_the_same_scores_without_skips(n_tokens, scale, inverse, holes, seed):
    """Powers of two scale a float32 exactly, so NumPy's scores are the kernel's bit for bit."""
    rng = np.random.default_rng(seed)
    rows = rng.choice([0, 1, 2, 3, 4, 255, 2**31, 2**32 - 1], 2)
    logits = make_logits(rng, 2, n_tokens, scale, holes)
    for b, token in enumerate(exp_sample(logits, inverse, rows)):
        numbers = gumbel_numbers(key_row(rows[b], n_tokens))
        scores = logits[b] * np.float32(inverse) + numbers
        scores = np.where(np.isnan(scores), -np.inf, scores)
        assert token == (np.argmax(scores) if scores.max() > -np.inf else -1)


@given(
    SIZES, st.sampled_from([0.0, 1.0, 5.0]), st.floats(0.1, 10), st.booleans(), st.integers(0, 999)
)
@settings(max_examples=60, deadline=None)
def test_exp_matches_the_float64_twin(n_tokens, scale, inverse, holes, seed):
    rng = np.random.default_rng(seed)
    logits = make_logits(rng, 1, n_tokens, scale, holes)
    token = exp_sample(logits, inverse, [seed])[0]
    scores = naive.exp_scores(
        logits[0].tolist(), float(np.float32(inverse)), key_row(seed, n_tokens).tolist()
    )
    if token == -1:
        assert max(scores) == -math.inf
    else:  # equal up to the rounding of float32 scores below 512
        assert scores[token] > max(scores) - 1e-4


@pytest.mark.parametrize("n_tokens", [1, 15, 16, 17, 255, 256, 257, 1000, 5000])
def test_exp_ties_go_to_the_lowest_token(n_tokens):
    """Logits so large that every Gumbel number is rounded away: all allowed tokens tie."""
    logits = np.full((1, n_tokens), 1e12, np.float32)
    assert exp_sample(logits, 1.0, [3])[0] == 0
    logits[0, : n_tokens // 2] = -np.inf
    assert exp_sample(logits, 1.0, [3])[0] == n_tokens // 2


@pytest.mark.parametrize("place", [0, 15, 16, 255, 256, 300])
def test_rows_without_a_finite_greatest_logit_give_minus_one(place):
    order = np.arange(301, dtype=np.int32)
    logits = np.full((3, 301), -np.inf, np.float32)
    logits[1, place] = np.nan
    logits[2, place] = np.inf
    words = np.array([0, 5, 2**32 - 1], np.uint32)
    assert exp_sample(logits, 1.0, [0, 1, 2]).tolist() == [-1, -1, -1]
    assert its_sample(logits, 1.0, order, words).tolist() == [-1, -1, -1]
    logits[:, place] = -300.0
    assert exp_sample(logits, 1.0, [0, 1, 2]).tolist() == [place] * 3
    assert its_sample(logits, 1.0, order, words).tolist() == [place] * 3


def test_exp_follows_the_softmax():
    """Over 20,000 key rows the counts are multinomial: chi-square with V - 1 degrees of freedom."""
    n_tokens, draws = 40, 20_000
    rng = np.random.default_rng(5)
    one = rng.normal(0, 1.5, n_tokens).astype(np.float32)
    tokens = exp_sample(np.tile(one, (draws, 1)), 0.8, np.arange(draws))
    p = np.exp(0.8 * one.astype(float))
    counts = np.bincount(tokens, minlength=n_tokens)
    assert stats.chisquare(counts, draws * p / p.sum()).pvalue > 1e-4


@given(SIZES, SCALES, st.floats(0.1, 10), st.booleans(), st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_its_weights_match_float64(n_tokens, scale, inverse, holes, seed):
    logits = make_logits(np.random.default_rng(seed), 1, n_tokens, scale, holes)[0]
    weights, total = weight_row(logits, np.float32(inverse))
    assert total == (weights.sum(dtype=np.int64) if np.any(np.isfinite(logits)) else 0)
    if total == 0:
        return
    expected = np.array(naive.its_weights(logits.tolist(), float(np.float32(inverse))))
    # exp(x) is off by 1e-7 from the polynomial and by |x| * 6e-8 from the rounding of x, |x| < 22.
    assert np.all(np.abs(weights - expected) <= 1 + 1.5e-6 * expected)
    assert weights[np.nanargmax(logits)] == 2**30


@given(SIZES, SCALES, st.booleans(), st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_its_equals_its_twin(n_tokens, scale, holes, seed):
    rng = np.random.default_rng(seed)
    logits = make_logits(rng, len(EXTREME_WORDS), n_tokens, scale, holes)
    order = rng.permutation(n_tokens).astype(np.int32)
    words = np.array(EXTREME_WORDS, np.uint32)
    for b, token in enumerate(its_sample(logits, 1.25, order, words)):
        weights, total = weight_row(logits[b], np.float32(1.25))
        assert token == (naive.its_token(weights, order, words[b]) if total else -1)
        assert token == -1 or weights[token] > 0


def test_its_target_is_exact_at_the_largest_totals():
    for total in (1, 2**30, 2**48 - 1, 2**50 + 12345):
        for word in EXTREME_WORDS:
            assert sample._target(np.uint32(word), total) == (2 * word + 1) * total // 2**33


def test_its_follows_the_softmax():
    """With u on an even grid, a token's count is its probability times the grid, within one."""
    n_tokens, draws = 40, 4096
    rng = np.random.default_rng(6)
    one = rng.normal(0, 1.5, n_tokens).astype(np.float32)
    words = (np.arange(draws) * 2**20 + 2**19).astype(np.uint32)
    order = rng.permutation(n_tokens).astype(np.int32)
    tokens = its_sample(np.tile(one, (draws, 1)), 0.8, order, words)
    p = np.exp(0.8 * one.astype(float))
    assert np.all(np.abs(np.bincount(tokens, minlength=n_tokens) - draws * p / p.sum()) <= 1)
    assert np.all(np.diff(np.argsort(order)[tokens]) >= 0)
