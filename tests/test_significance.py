"""p-values: the definitions, and uniformity over keys with bounds from theory."""

import math

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import PAPER
from scipy import stats

from wmcore import SCHEMES, Detector, Key, PublishedKey, Watermark
from wmcore.engine import Engine
from wmcore.kernels.backend import Backend
from wmcore.kernels.problem import EXP, PLAIN, Problem, pack
from wmcore.significance import permutation_test, seed_key

PROBLEM = Problem(cost=EXP, alignment=PLAIN, n=4, gamma=0, vocab_size=9, denominator=8)


class Scripted(Backend):
    """A backend whose resampled statistics are given: row a of `null` is text a's."""

    name = "scripted"

    def __init__(self, null):
        self.null = np.asarray(null)

    def tally(self, problem, texts, value, limit, resamples, threads):
        hits, used = np.zeros((2, texts.size), np.int64)
        for a in range(texts.size):
            for phi in self.null[a, resamples.first : resamples.stop]:
                if hits[a] < limit[a]:
                    hits[a] += phi <= value[a]
                    used[a] += 1
        return hits, used


@settings(max_examples=100, deadline=None)
@given(
    resamples=st.integers(1, 300),
    h=st.one_of(st.none(), st.integers(1, 60)),
    spread=st.sampled_from([1, 2, 10, 1000]),
    seed=st.integers(0, 2**32 - 1),
)
def test_p_values_equal_the_definitions(resamples, h, spread, seed):
    rng = np.random.default_rng(seed)
    null = rng.integers(0, spread, size=(5, 320))
    value = rng.integers(-1, spread + 1, size=5)
    texts = pack([np.arange(2)] * 5, None)
    found = permutation_test(
        Engine(Scripted(null), PROBLEM, None, 1),
        texts,
        value,
        resamples=resamples,
        stop_after=h,
        seed=0,
    )
    for a in range(5):
        row = null[a, :resamples].tolist()
        if h is None:
            expected = naive.p_value(value[a], row), resamples
        else:
            expected = naive.sequential_p_value(value[a], row, h)
        assert (found.p_value[a], found.resamples[a]) == expected


def test_seeds():
    assert (seed_key(1) == seed_key(1)).all()
    assert (seed_key(1) != seed_key(2)).any()
    assert seed_key(0).shape == (8,)


def test_who_knows_the_seed_but_not_the_key_knows_no_resample():
    """One seed gives each secret key resamples of its own; those of a published key stay as they were."""
    text = np.random.default_rng(0).integers(0, 50, size=12)

    def null_of(key):
        watermark = Watermark.create("exp", vocab_size=50, key_length=9, key=key)
        found = []
        for h in range(1, 40):  # the places of the first hits say which resamples there are
            (d,) = Detector(watermark).detect([text], resamples=400, stop_after=h, seed=7)
            found.append(d.resamples)
        return found

    one, other = Key(bytes(32)), Key(b"x" * 32)
    assert null_of(one) == null_of(Key(bytes(32)))
    assert null_of(one) != null_of(other)
    assert len({seed_key(7, k.salt).tobytes() for k in (one, other, one.derive("a"))}) == 3
    assert (seed_key(7, PublishedKey(1, "mersenne").salt) == seed_key(7)).all()
    assert one.salt not in (bytes(32), one.fingerprint.encode())
    controls = [k.control("exp", bytes(32)) for k in (one, other)]
    assert controls[0] != controls[1]


def zipf_text(rng, length, vocab_size):
    """A text with the repetitions of real ones: token frequencies fall as 1 / rank."""
    weights = 1 / np.arange(1, vocab_size + 1)
    return rng.choice(vocab_size, size=length, p=weights / weights.sum())


# 2,000 null texts a scheme, each with its own key: under one key, texts that share tokens have dependent p-values.
COUNT = 2000
# Each bound below is broken with probability at most this, if p-values are uniform on {1 .. T + 1} / (T + 1).
ALPHA = 1e-6


@pytest.mark.parametrize(
    ("scheme", "block_length"), [*((s, None) for s in SCHEMES), *((s, 8) for s in PAPER)]
)
def test_p_values_are_uniform_over_keys(scheme, block_length):
    rng = np.random.default_rng(11)
    resamples = 199
    p = np.empty(COUNT)
    for i in range(COUNT):
        watermark = Watermark.create(
            scheme, vocab_size=500, key_length=24, block_length=block_length
        )
        text = zipf_text(rng, rng.integers(8, 30), 500)
        detector = Detector(watermark, threads=1)
        (found,) = detector.detect([text], resamples=resamples, stop_after=None)
        p[i] = found.p_value
    # Kolmogorov-Smirnov against the uniform law on the grid, with the bound of Dvoretzky, Kiefer, Wolfowitz
    # and Massart, which holds for any law: P(D > d) <= 2 exp(-2 N d^2).
    grid = np.arange(1, resamples + 2) / (resamples + 1)
    distance = np.abs(np.searchsorted(np.sort(p), grid, side="right") / COUNT - grid).max()
    assert distance <= math.sqrt(math.log(2 / ALPHA) / (2 * COUNT))
    for level in (0.01, 0.05):
        below = int((p <= level).sum())  # binomial(COUNT, level): level is on the grid
        low, high = stats.binom.ppf([ALPHA / 2, 1 - ALPHA / 2], COUNT, level)
        assert low <= below <= high


@pytest.mark.parametrize("scheme", ["exp-edit", "its"])
def test_early_stopping_keeps_p_values_uniform(scheme):
    rng = np.random.default_rng(12)
    resamples, h = 199, 10
    p = np.empty(COUNT)
    used = np.empty(COUNT)
    for i in range(COUNT):
        watermark = Watermark.create(scheme, vocab_size=500, key_length=24)
        text = zipf_text(rng, 16, 500)
        (found,) = Detector(watermark, threads=1).detect([text], resamples=resamples, stop_after=h)
        p[i], used[i] = found.p_value, found.resamples
    # P(p <= h / l) = h / l for l = h .. T, and P(p <= i / (T + 1)) = i / (T + 1) for i <= h
    # (ties of the discrete statistic can only make it less; here they are rare).
    levels = np.concatenate(
        [h / np.arange(h, resamples + 1), np.arange(1, h + 1) / (resamples + 1)]
    )
    levels = np.unique(levels)
    distance = np.abs(
        np.searchsorted(np.sort(p), levels * (1 + 1e-12), side="right") / COUNT - levels
    )
    assert distance.max() <= math.sqrt(math.log(2 / ALPHA) / (2 * COUNT))
    # Most texts stop early: E[min(T, first l)] is about h (1 + log(T / h)) for uniform p.
    assert used.mean() < 1.3 * h * (1 + math.log(resamples / h))


def test_all_equal_costs_give_p_one():
    # One token repeated, key length 1: every window is the same alignment, yet keys differ; with a vocabulary
    # of one token its costs are all equal, and every resample ties with the key.
    watermark = Watermark.create("its", vocab_size=1, key_length=1)
    text = np.zeros(3, int)
    u = watermark.key.its_words(1)[0] >> 16
    (found,) = Detector(watermark).detect([text], resamples=400, stop_after=None, seed=1)
    assert found.statistic == 3 * u / 65536
    null = [3 * naive.null_uniform(seed_key(1, watermark.key.salt), t, 0, 1) for t in range(400)]
    assert found.p_value == naive.p_value(3 * int(u), null)


def test_power_rises_with_length():
    # A watermark of weak tokens: each is, with probability 0.5, the one of three with the best key number.
    rng = np.random.default_rng(13)
    powers = []
    for length in (10, 40, 160):
        count = 0
        for _ in range(60):
            watermark = Watermark.create("exp", vocab_size=300, key_length=160)
            detector = Detector(watermark, threads=1)
            costs = detector.engine.matrix(detector.costs, np.arange(300))
            start = rng.integers(160)
            text = rng.integers(0, 300, size=(length, 3))
            at = (start + np.arange(length)) % 160
            best = costs[text, at[:, None]].argmin(axis=1)
            chosen = np.where(rng.random(length) < 0.5, best, 0)
            (found,) = detector.detect([text[np.arange(length), chosen]], resamples=199)
            count += found.p_value <= 0.01
        powers.append(count / 60)
    # Standard error at most 0.065: the ends differ by more than eight of them.
    assert powers[0] <= powers[1] + 0.2
    assert powers[1] <= powers[2] + 0.2
    assert powers[2] - powers[0] > 0.5
