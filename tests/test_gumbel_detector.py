"""The batch detector for vLLM's own watermark: its numbers from the definition, recorded values, and its wheel."""

import math

import naive
import numpy as np
import pytest
import torch
import vllm_stubs
from peers import wheels
from scipy import special, stats

from wmcore import WatermarkError
from wmcore.bindings import _gumbel
from wmcore.bindings.vllm_gumbel import GumbelDetector, dual_keys, stack
from wmcore.kernels.cpu import philox

# Twenty tokens drawn by the GumbelWatermarker of vLLM 0.33.0 on its CPU path (key 42, context width 4, 100 equal
# logits), and what its detectors say of them and of a repetitive text. Recorded by running the wheel's own files.
TEXT = [85, 56, 28, 65, 40, 35, 92, 76, 57, 27, 19, 18, 27, 69, 52, 8, 80, 14, 81, 55]
REPEATS = [5] * 12 + [0, 4294967294]
RECORDED = [
    (TEXT, {"key": 42}, 106.25505388525158, 2.2597974254402253e-25, 20),
    (TEXT, {"key": 43}, 14.755108079654136, 0.8884235163335897, 20),
    (TEXT, {"key": 42, "alpha": 0.1}, 22.252607982537057, 0.27306073488237737, 20),
    (
        REPEATS,
        {"key": 2**63 + 5, "context_width": 7, "deduplicate_contexts": False},
        14.755029771717755,
        0.3870113788265929,
        14,
    ),
    (
        REPEATS,
        {"key": 42, "context_width": 2, "alpha": 0.1},
        5.684175492703168,
        0.16569472751683825,
        4,
    ),
]


def documents(seed=3):
    rng = np.random.default_rng(seed)
    random = [rng.integers(0, 50000, n).tolist() for n in (1, 2, 7, 40, 129)]
    return [*random, [], rng.integers(0, 3, 100).tolist(), [0] * 20, [2**32 - 2, 0, 7]]


@pytest.mark.parametrize(("text", "settings", "score", "p_value", "counted"), RECORDED)
def test_recorded_values(text, settings, score, p_value, counted):
    (found,) = GumbelDetector(**settings).detect([text])
    assert found.score == pytest.approx(score, rel=1e-12)
    assert found.p_value == pytest.approx(p_value, rel=1e-8)
    assert found.log_p_value == pytest.approx(math.log(p_value), rel=1e-8)
    assert found.num_scored_tokens == counted
    assert found.is_watermarked == (p_value <= 0.01)


def test_philox_known_answers():
    """Random123's own, for a zero counter and for all ones."""
    zero, ones = (np.uint64(x) for x in (0, 2**32 - 1))
    known = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert list(philox.philox(*[zero] * 6)) == known
    assert naive.philox4x32([0] * 4, [0] * 2) == known
    known = [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    assert list(philox.philox(*[ones] * 6)) == known


@pytest.mark.parametrize("width", [1, 3, 4, 5, 8, 9])
@pytest.mark.parametrize("deduplicate", [True, False])
def test_scores_equal_the_definition(width, deduplicate):
    texts = documents()
    for key, alpha in [(0, None), (2**64 - 1, None), (42, 0.1), (7, 1.0)]:
        keys = [key] if alpha is None else dual_keys(key)
        weights = [1.0] if alpha is None else [1 - alpha, alpha]
        detector = GumbelDetector(
            key, width, deduplicate_contexts=deduplicate, alpha=alpha, threads=3
        )
        for text, found in zip(texts, detector.detect(texts), strict=True):
            score, counted = naive.gumbel_score(text, width, keys, weights, deduplicate)
            assert found.num_scored_tokens == counted
            # u is rounded to float32: within 2**-25 of 1 - u >= 2**-24.
            assert found.score == pytest.approx(score, rel=1e-5, abs=1e-5)
            assert found.error is None


def test_p_values_are_gamma_tails_and_uniform_without_the_watermark():
    rng = np.random.default_rng(1)
    texts = list(rng.integers(0, 1000, (2000, 30)))
    found = stack(GumbelDetector(42).detect(texts))
    tails = stats.gamma.sf(found["score"], found["num_scored_tokens"])
    assert found["p_value"] == pytest.approx(tails, rel=1e-9)
    # Kolmogorov-Smirnov: below 1e-4 once in 10,000 such tests, with fixed seeds.
    assert stats.kstest(found["p_value"], "uniform").pvalue > 1e-4
    assert 0 < found["is_watermarked"].mean() < 0.03
    half = stack(GumbelDetector(42, alpha=0.5).detect(texts))
    assert stats.kstest(half["p_value"], "uniform").pvalue > 1e-4


def log_tail(x, shape):
    """Up from shape 1/2 or 1: Q(a + 1, x) = Q(a, x) + x**a exp(-x) / Gamma(a + 1)."""
    a = shape % 1 or 1.0
    found = -x if a == 1 else math.log(2) + special.log_ndtr(-math.sqrt(2 * x))
    while a < shape:
        found = np.logaddexp(found, a * math.log(x) - x - math.lgamma(a + 1))
        a += 1
    return found


@pytest.mark.parametrize("variance", [1.0, 2 / 3, 2.0])
def test_logarithms_of_p_do_not_underflow(variance):
    counted = np.array([0, 1, 6, 300, 4096, 99999])
    for mean in (0.5, 1.0, 1.4, 3.0, 1000.0):
        score = counted * mean
        p_value, log_p_value = _gumbel.tails(score, counted, variance)
        exact = [
            log_tail(s / variance, n / variance) if n else 0
            for s, n in zip(score, counted, strict=True)
        ]
        assert log_p_value == pytest.approx(np.array(exact), rel=1e-9, abs=1e-9)
        assert p_value == pytest.approx(np.exp(log_p_value), rel=1e-8)
    assert p_value[-1] == 0


def test_any_array_and_one_bad_document():
    text = np.array(TEXT)
    batch = [TEXT, text, torch.tensor(TEXT), text.astype(np.uint16), np.repeat(text, 2)[::2]]
    found = GumbelDetector(42).detect([*batch, [-1], [2**32 - 1], [0.5], "text", [[1]]])
    assert len({one.score for one in found[:5]}) == 1
    for one in found[5:]:
        assert "the document is not a sequence of token ids" in one.error
        assert (one.p_value, one.is_watermarked, one.num_scored_tokens) == (1.0, False, 0)
    assert GumbelDetector(42).detect([]) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": 2**64}, "key is outside 0 to 2\\*\\*64 - 1"),
        ({"context_width": 0}, "context_width is 0"),
        ({"p_value_threshold": 1.0}, "p_value_threshold 1.0 is outside"),
        ({"alpha": 1.5}, "alpha 1.5 is outside"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(WatermarkError, match=message):
        GumbelDetector(**{"key": 1, **change})


@pytest.mark.parametrize("root", wheels() or [None], ids=str)
def test_scores_are_vllms_own(root):
    """Against the detector in unpacked wheels, given by WMCORE_VLLM."""
    if root is None:
        pytest.skip("WMCORE_VLLM names no unpacked vLLM wheel")
    vllm_stubs.load(root)
    try:
        theirs = __import__("vllm.v1.watermarking", fromlist=["x"])
        texts = [*documents(), TEXT]
        for width in (1, 4, 6):
            for deduplicate in (True, False):
                settings = {"context_width": width, "deduplicate_contexts": deduplicate}
                pairs = [(theirs.GumbelWatermarkDetector(42, **settings), None)]
                for alpha in (0, 0.1, 0.5, 1):
                    dual = theirs.DualKeyGumbelWatermarkDetector(42, alpha=alpha, **settings)
                    pairs.append((dual, alpha))
                for detector, alpha in pairs:
                    ours = GumbelDetector(42, alpha=alpha, **settings).detect(texts)
                    for text, one in zip(texts, ours, strict=True):
                        wanted = detector.detect(text)
                        assert one.score == pytest.approx(wanted.score, rel=1e-12, abs=1e-12)
                        assert one.p_value == pytest.approx(wanted.p_value, rel=1e-8)
                        assert one.num_scored_tokens == wanted.num_scored_tokens
                        assert one.is_watermarked == wanted.is_watermarked
    finally:
        vllm_stubs.forget()
    assert math.isfinite(one.score)
