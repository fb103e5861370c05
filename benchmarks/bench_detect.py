"""Whole detections of synthetic texts, by scheme and kind (`make bench`); peers.py has real ones."""

import numpy as np
import pytest

from wmcore import SCHEMES, Detector, Key, Watermark

V, M, T = 49152, 200, 999


@pytest.fixture(scope="module", params=SCHEMES)
def setting(request):
    """A detector, a text of its watermark (half of the tokens forced) and one without."""
    watermark = Watermark.create(request.param, vocab_size=V, key=Key(bytes(32)))
    detector = Detector(watermark, threads=1)
    rng = np.random.default_rng(0)
    plain = rng.zipf(1.3, size=M) % V
    some = np.arange(0, V, 16)
    costs = detector.engine.matrix(detector.costs, some)
    best = some[costs[:, (9 + np.arange(M)) % 256].argmin(axis=0)]
    return detector, np.where(rng.random(M) < 0.5, best, plain), plain


@pytest.mark.parametrize("batch", [1, 32])
def test_watermarked(benchmark, setting, batch):
    detector, marked, _ = setting
    found = benchmark(detector.detect, [marked] * batch, resamples=T, seed=1)
    assert found[0].p_value < 0.01
    benchmark.extra_info["ms_per_text"] = round(1e3 * benchmark.stats.stats.median / batch, 3)


@pytest.mark.parametrize("stop_after", [50, None])
def test_ordinary(benchmark, setting, stop_after):
    detector, _, plain = setting
    found = benchmark(detector.detect, [plain] * 4, resamples=T, seed=1, stop_after=stop_after)
    assert found[0].p_value > 1 / (T + 1)
    benchmark.extra_info["ms_per_text"] = round(1e3 * benchmark.stats.stats.median / 4, 3)
