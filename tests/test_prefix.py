"""The prefix curve equals testing every prefix by itself."""

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import problems, wrapped
from scipy import stats

from wmcore import SCHEMES, Detector, Key, Watermark, WatermarkError
from wmcore.kernels.cpu import prefix
from wmcore.kernels.problem import EDIT, EXP, PLAIN, Problem, Resamples
from wmcore.plan import MOST
from wmcore.prefix import prefix_curve
from wmcore.significance import seed_key


@settings(max_examples=60, deadline=None)
@given(problems(max_length=11), st.booleans())
def test_prefix_statistics_equal_the_twin(problem, edits):
    costs, inverse, _, gamma = problem
    n, m = costs.shape[1], len(inverse)
    out = np.empty(m, np.int32)
    matrix = wrapped(costs, -2 * gamma if edits else 0)
    alignment, gap = (EDIT, gamma) if edits else (PLAIN, 0)
    prefix.observe_prefixes(matrix, Problem(EXP, alignment, n, gap, 100, 99), inverse, out)
    for length in range(1, m + 1):
        phi = naive.statistic(costs.tolist(), inverse[:length], length, gamma if edits else None)[0]
        assert out[length - 1] == phi


@pytest.mark.parametrize(
    ("scheme", "gap"),
    [*((s, None) for s in SCHEMES), ("exp-edit", 1.5), ("exp-edit", 1e4), ("its-edit", 1e4)],
)
def test_the_curve_equals_single_tests(scheme, gap):
    watermark = Watermark.create(scheme, vocab_size=60, key_length=21, gap=gap)
    text = np.random.default_rng(4).integers(0, 20, size=33)
    detector = Detector(watermark)
    curve = prefix_curve(detector, text, resamples=101, seed=5)
    single = detector.detect(
        [text[:length] for length in range(1, 34)], resamples=101, seed=5, stop_after=None
    )
    assert curve.any_prefix_p_value == any_prefix_of_single_prefixes(detector, text, 101, 5)
    assert curve.lengths.tolist() == [d.length for d in single]
    assert curve.p_value.tolist() == [d.p_value for d in single]
    assert curve.statistic.tolist() == [d.statistic for d in single]
    again = prefix_curve(Detector(watermark, threads=1), text, resamples=101, seed=5)
    assert (again.p_value == curve.p_value).all()
    assert again.any_prefix_p_value == curve.any_prefix_p_value


def any_prefix_of_single_prefixes(detector, text, resamples, seed):
    """The twin's, from the statistics of each prefix as a text of its own."""
    engine = detector.engine
    some = Resamples(seed_key(seed, detector.watermark.key.salt), 0, resamples)
    columns = []
    for length in range(1, len(text) + 1):
        prefix_alone = engine.pack([np.asarray(text[:length], np.int64)])
        (value,) = engine.units(engine.fit(prefix_alone, detector.costs).value)
        columns.append([value, *engine.null(prefix_alone, 0, some)])
    return naive.any_prefix_p_value(list(zip(*columns, strict=True)))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["its", "its-edit", "exp-edit"]),
    st.lists(st.integers(0, 2), min_size=1, max_size=9),
    st.integers(1, 3),
    st.integers(1, 34),
    st.integers(0, 2**32),
)
def test_any_prefix_equals_the_twin(scheme, text, n, resamples, seed):
    """Few tokens, few rows, gaps at no cost: ranks are shared, and least ranks often."""
    gap = 0.0 if scheme.endswith("edit") else None
    watermark = Watermark.create(scheme, vocab_size=3, key_length=n, gap=gap, key=Key(bytes(32)))
    detector = Detector(watermark, threads=1)
    curve = prefix_curve(detector, text, resamples=resamples, seed=seed)
    assert curve.any_prefix_p_value == any_prefix_of_single_prefixes(
        detector, text, resamples, seed
    )


@pytest.mark.parametrize("scheme", ["exp-edit", "its"])
def test_any_prefix_is_a_test_and_the_first_prefix_is_none(scheme):
    """Over keys: each bound is broken with probability at most 1e-6 if P(p <= a) = a, as where rows are seldom equal.

    Some prefix has p <= a at least as often as the whole text has, which is within these bounds; it breaks them by far
    (measured: 131 and 199 of 2,000 texts at a = 0.01, bound 45).
    """
    rng = np.random.default_rng(14)
    count, alpha, resamples = 2000, 1e-6, 199
    p, first = np.empty((2, count))
    for i in range(count):
        watermark = Watermark.create(scheme, vocab_size=500, key_length=24)
        text = rng.zipf(1.3, size=24) % 500
        curve = prefix_curve(Detector(watermark, threads=1), text, resamples=resamples)
        p[i], first[i] = curve.any_prefix_p_value, curve.p_value.min()
    for level in (0.01, 0.05):
        low, high = stats.binom.ppf([alpha / 2, 1 - alpha / 2], count, level)
        assert low <= (p <= level).sum() <= high
        assert (first <= level).sum() > high


def test_a_table_that_is_too_large():
    detector = Detector(Watermark.create("exp", vocab_size=50))
    with pytest.raises(
        WatermarkError, match=r"2,147,483,647 statistics of each of 3 prefixes needs"
    ):
        prefix_curve(detector, [1, 2, 3], resamples=MOST)


def test_tokens_until():
    watermark = Watermark.create("exp", vocab_size=300, key_length=64, key=Key(bytes(32)))
    detector = Detector(watermark)
    costs = detector.engine.matrix(detector.costs, np.arange(300))
    best = costs[:, (7 + np.arange(40)) % 64].argmin(axis=0)  # a flat model's text, shift 7
    curve = prefix_curve(detector, best, resamples=999, seed=1)
    length = curve.tokens_until(0.01)
    assert 1 < length <= 8
    assert curve.p_value[length - 1] <= 0.01 < curve.p_value[: length - 1].min()
    assert curve.tokens_until(0.0001) is None


def test_what_cannot_have_a_curve():
    blocks = Watermark.create("exp", vocab_size=50, block_length=5)
    with pytest.raises(WatermarkError, match="block_length is 5, but a prefix curve"):
        prefix_curve(Detector(blocks), [1, 2, 3])
    detector = Detector(Watermark.create("exp", vocab_size=50))
    with pytest.raises(WatermarkError, match="token 50 at position 1"):
        prefix_curve(detector, [1, 50])
    with pytest.raises(WatermarkError, match="resamples is 0"):
        prefix_curve(detector, [1], resamples=0)
