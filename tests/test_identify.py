"""One of many keys: the right one, with a p-value that stays valid."""

import math

import numpy as np
import pytest
from matrices import PAPER
from scipy import stats

from wmcore import Detector, Key, PublishedKey, Watermark, WatermarkError
from wmcore.identify import identify
from wmcore.plan import Plan, log_evalues, log_proven

V = 200


def tenants(count, scheme="exp-edit", **settings):
    root = Key.generate()
    return [
        Watermark.create(
            scheme, vocab_size=V, key=root.derive(f"tenant {i}"), **{"key_length": 32, **settings}
        )
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("scheme", "block_length"),
    [*((s, None) for s in [*PAPER, "exp-free", "exp-local"]), *((s, 7) for s in PAPER)],
)
def test_the_best_key_is_the_one_that_single_detectors_find(scheme, block_length, monkeypatch):
    # Seeds are mixed with the keys: without that, all six detectors and `identify` share their resamples.
    monkeypatch.setattr(Key, "salt", b"")
    keys = tenants(6, scheme, block_length=block_length)
    rng = np.random.default_rng(1)
    texts = [rng.integers(0, V, size=m) for m in (7, 20, 33)]
    found = identify(texts, keys, resamples=200, stop_after=None, seed=3)
    single = [Detector(key).detect(texts, resamples=200, stop_after=None, seed=3) for key in keys]
    for a, identification in enumerate(found):
        each = [detections[a] for detections in single]
        best = min(range(6), key=lambda i: each[i].statistic)
        assert identification.index == best
        assert identification.statistic == each[best].statistic
        assert (identification.shift, identification.block) == (each[best].shift, each[best].block)
        assert identification.p_value == min(1, 6 * each[best].p_value)


def test_watermarked_texts_name_their_tenant():
    keys = tenants(100)
    texts = []
    for i in (0, 42, 99):
        detector = Detector(keys[i])
        costs = detector.engine.matrix(detector.costs, np.arange(V))
        texts.append(costs[:, (i + np.arange(25)) % 32].argmin(axis=0))
    proven = identify(texts, keys)
    assert [f.index for f in proven] == [0, 42, 99]
    assert all(f.resamples == 0 and f.p_value < 1e-10 for f in proven)
    found = identify([*texts, [], [V]], keys, resamples=9999)
    assert [f.index for f in found] == [0, 42, 99, None, None]
    assert [f.p_value for f in found[:3]] == [100 / 10_000] * 3
    assert [f.shift for f in found[:3]] == [0, 10, 3]
    assert "no tokens" in found[3].error
    assert "outside the vocabulary" in found[4].error


def test_p_values_are_valid_without_a_watermark():
    # P(K p <= a) <= a for each level a: the counts stay below a binomial bound broken with probability 1e-6.
    rng = np.random.default_rng(2)
    count, keys = 400, 5
    p = np.array(
        [
            identify(
                [rng.integers(0, V, size=12)],
                tenants(keys, "exp"),
                resamples=499,
                stop_after=20,
                threads=1,
            )[0].p_value
            for _ in range(count)
        ]
    )
    for level in (0.05, 0.2, 0.5):
        assert (p <= level).sum() <= stats.binom.ppf(1 - 1e-6, count, level)
    # And not needlessly large: with independent keys P(K p <= 0.2) is about 1 - (1 - 0.2 / K)^K = 0.18.
    expected = 1 - (1 - 0.2 / keys) ** keys
    assert (p <= 0.2).mean() >= expected - 5 * math.sqrt(expected / count)


def test_default_p_is_k_times_the_bound_of_the_best_key_or_k_times_that_of_resamples():
    """Each as a detector of that key alone finds it; keys whose numbers are rounded have no bound."""
    keys = [
        *tenants(3),
        Watermark.published("exp-edit", seed=1, generator="mersenne", vocab_size=V, key_length=32),
    ]
    keys = [
        Watermark.create("exp-edit", vocab_size=V, key_length=32, key=mark.key) for mark in keys
    ]
    rng = np.random.default_rng(3)
    texts = [rng.integers(0, V, size=20)]
    for key in (keys[1], keys[3]):
        detector = Detector(key)
        costs = detector.engine.matrix(detector.costs, np.arange(V))
        texts.append(costs[:, (3 + np.arange(25)) % 32].argmin(axis=0))
    chance, strong, rounded = identify(texts, keys, seed=1)
    plan = Plan(99_999)
    (alone,) = Detector(keys[1]).detect([texts[1]], plan=plan)
    assert (strong.index, strong.resamples, alone.method) == (1, 0, "bound")
    assert strong.p_value == pytest.approx(4 * alone.p_value, rel=1e-12, abs=0)
    plain = identify(texts, keys, resamples=99_999, seed=1)
    assert chance.p_value == min(1, plain[0].p_value + 4 * plan.epsilon)
    assert (rounded.index, rounded.resamples) == (3, 99_999)
    assert rounded.p_value == pytest.approx(4 / 100_000 + 4 * plan.epsilon)


@pytest.mark.parametrize("scheme", ["exp", "its"])
def test_proven_p_of_many_keys_is_valid(scheme):
    """P(K G <= a) <= a of the best of 4 keys, 3,000 times: binomial bounds broken with probability 1e-6."""
    rng = np.random.default_rng(4)
    p = []
    for i in range(3000):
        keys = [Key((4 * i + j).to_bytes(32, "little")) for j in range(4)]
        marks = [Watermark.create(scheme, vocab_size=64, key_length=12, key=key) for key in keys]
        text = rng.integers(0, 64, size=5)
        (found,) = identify([text], marks, resamples=1, seed=i, threads=1)
        subject = Detector(marks[found.index], threads=1).subject
        phi = np.array([found.statistic])
        e = log_evalues(subject, [text]) if subject.has_evalues else np.array([-np.inf])
        p.append(min(1.0, 4 * math.exp(log_proven(subject, [text], phi, e)[0])))
    for level in (0.5, 1e-1, 1e-2, 1e-3):
        assert (np.array(p) <= level).sum() <= stats.binom.ppf(1 - 1e-6, 3000, level)
    assert min(p) < 1


def test_an_identification_is_neither_true_nor_false():
    (found,) = identify([[1, 2, 3]], [Watermark.create(scheme="exp", vocab_size=9)], resamples=9)
    with pytest.raises(TypeError, match=r"use identification\.p_value <= level"):
        bool(found)


def test_what_cannot_be_identified_together():
    with pytest.raises(WatermarkError, match="watermarks is empty"):
        identify([[1]], [])
    mixed = [*tenants(1), *tenants(1, "exp")]
    with pytest.raises(WatermarkError, match=r"watermark 1 .* differs from watermark 0"):
        identify([[1]], mixed)
    with pytest.raises(WatermarkError, match="resamples is 0"):
        identify([[1]], tenants(1), resamples=0)


def test_exp_keys_of_both_kinds_are_one_scheme():
    """Their laws are equal; only its, whose eta has two denominators, tells them apart."""
    texts = [np.arange(20)]
    keys = [Key(bytes(32)), PublishedKey(1, "mersenne")]
    exp, its = (
        [Watermark.create(scheme, vocab_size=50, key_length=9, key=key) for key in keys]
        for scheme in ("exp", "its")
    )
    (found,) = identify(texts, exp, resamples=99, seed=1)
    alone = [Detector(mark).detect(texts, seed=1)[0].statistic for mark in exp]
    assert found.statistic == min(alone)
    with pytest.raises(WatermarkError, match="differs from watermark 0"):
        identify(texts, its)
