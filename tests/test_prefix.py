"""The prefix curve equals testing every prefix by itself."""

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import problems, wrapped

from wmcore import SCHEMES, Detector, Key, Watermark, WatermarkError
from wmcore.kernels.cpu import prefix
from wmcore.kernels.problem import EDIT, EXP, PLAIN, Problem
from wmcore.prefix import prefix_curve


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
    assert curve.lengths.tolist() == [d.length for d in single]
    assert curve.p_value.tolist() == [d.p_value for d in single]
    assert curve.statistic.tolist() == [d.statistic for d in single]
    again = prefix_curve(Detector(watermark, threads=1), text, resamples=101, seed=5)
    assert (again.p_value == curve.p_value).all()


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
