"""Texts that are too long to be aligned at once: tested in windows, with one valid p."""

import numpy as np
import pytest
from scipy import stats
from test_scored import marked

from wmcore import Detector, Key, Watermark
from wmcore import windows as module
from wmcore.plan import Plan
from wmcore.verdict import verdicts
from wmcore.windows import fitting_window, plan_of_windows, starts

V = 300


def mark(scheme="exp", key=bytes(32), **settings):
    settings = {"key_length": 64, **settings}
    return Watermark.create(scheme, vocab_size=V, key=Key(key), **settings)


def test_windows_cover_a_text_and_end_with_it():
    for length in range(1, 80):
        at = starts(length, 16, 8)
        assert at[0] == 0
        assert at[-1] == max(0, length - 16)
        assert set(np.diff(at)) <= set(range(1, 9))


@pytest.mark.parametrize("scheme", ["exp", "exp-edit", "its-edit"])
def test_a_long_text_is_tested_in_windows(scheme):
    rng = np.random.default_rng(1)
    watermark = mark(scheme)
    detector = Detector(watermark, threads=1)
    text = rng.integers(V, size=8500)
    if watermark.sampler == "exp":
        text[4000:4064] = marked(watermark, 64, 5)
    short = rng.integers(V, size=100)
    found, fine = detector.detect([text, short], alignment=True)
    assert (found.error, fine.error) == (None, None)
    assert found.windows == len(starts(8500, 256, 128)) == 66
    first, stop = found.window
    assert stop - first == 256
    assert first <= found.block < stop
    assert found.length == 8500
    assert (fine.windows, fine.window) == (1, None)
    assert detector.detect([text])[0] == detector.detect([short, text])[1]
    assert found.alignment.positions[0] == found.block
    assert found.to_dict()["window"] == [first, stop]
    if watermark.sampler == "exp":
        assert found.found()
        assert first <= 4000
        assert stop >= 4064
    else:
        assert found.found() is False


def test_p_is_that_of_the_best_window_times_their_number():
    rng = np.random.default_rng(2)
    detector = Detector(mark(), threads=1)
    text = rng.integers(V, size=8192 + 128)
    plan = Plan(199, None, bound=False)
    (found,) = detector.detect([text], plan=plan)
    at = starts(len(text), 256, 128)
    each = detector.detect([text[s : s + 256] for s in at], plan=plan)
    best = min(range(len(at)), key=lambda i: (each[i].p_value, each[i].statistic))
    assert found.p_value == min(1.0, len(at) * each[best].p_value)
    assert found.window == (at[best], at[best] + 256)
    assert (found.statistic, found.shift) == (each[best].statistic, each[best].shift)
    assert found.verdict(1e-4).startswith("not found")


@pytest.mark.parametrize("scheme", ["exp", "exp-free"])
def test_p_of_a_long_text_is_valid(scheme, monkeypatch):
    """Of 400 keys, one text of nine windows without a watermark: P(p <= a) <= a, within binomial bounds that fail by
    chance once in 1e5."""
    monkeypatch.setattr(module, "WINDOW", 16)
    monkeypatch.setattr("wmcore.engine.Engine.too_long", lambda self, length: length > 32)
    monkeypatch.setattr(
        "wmcore.engine.Engine.error", lambda self, length: "too long" if length > 32 else None
    )
    text = np.random.default_rng(3).integers(V, size=80)
    count, p = 400, []
    for i in range(count):
        detector = Detector(mark(scheme, i.to_bytes(32, "big"), key_length=16), threads=1)
        (found,) = detector.detect([text])
        assert found.windows == 9
        p.append(found.p_value)
    for level in (0.005, 0.01, 0.05, 0.1, 0.2):
        assert (np.array(p) <= level).sum() <= stats.binom.isf(2e-6, count, level), level
    # Bonferroni loses at most what overlapping windows share: half of the level is still there.
    assert (np.array(p) <= 0.2).sum() >= stats.binom.isf(1 - 2e-6, count, 0.08)


def test_a_long_key_needs_small_windows():
    watermark = Watermark.create("exp-free", vocab_size=50_000, key_length=2**20)
    detector = Detector(watermark, threads=1)
    window = fitting_window(detector.engine, detector.statistic.scheme, 1000)
    assert window == 32
    assert detector.engine.error(window) is None
    assert "test a part of the text" in detector.engine.error(1000)


def test_a_block_that_fits_no_window_stays_an_error():
    watermark = Watermark.create("exp", vocab_size=50_000, key_length=2**20, block_length=2000)
    (found,) = Detector(watermark, threads=1).detect([np.arange(5000)])
    assert "table of costs" in found.error
    assert found.windows == 1


def test_the_default_plan_grows_with_the_windows():
    assert plan_of_windows(Plan(), 1).resamples == 1999
    plan = plan_of_windows(Plan(), 66)
    assert 66 * (plan.epsilon + 1 / (plan.resamples + 1)) < 0.001
    assert plan_of_windows(Plan(), 10**6).resamples == module.MOST_RESAMPLES
    assert plan_of_windows(Plan(10**7), 3).resamples == 10**7


def test_a_verdict_of_a_long_text():
    watermark = mark()
    text = np.random.default_rng(4).integers(V, size=8300)
    (plain,) = verdicts(Detector(watermark, threads=1), [text])
    text[100:164] = marked(watermark, 64, 0)
    (found,) = verdicts(Detector(watermark, threads=1), [text])
    assert (plain.found, found.found) == (False, True)


def test_a_verdict_on_a_long_text_is_one_that_its_windows_allow():
    """With 999,999 resamples at most, p of 66 windows that no bound proves is at least 66 in a million."""
    detector = Detector(mark(), threads=1)
    text = np.random.default_rng(4).integers(V, size=8500)
    (found,) = detector.detect([text], level=0.001)
    windows = len(starts(8500, 256, 128))
    assert windows / (found.resamples + 1) < 0.001 or found.hits
    (answer,) = verdicts(detector, [text], level=0.001)
    assert (answer.found, answer.error) == (False, None)
    (answer,) = verdicts(detector, [text], level=6.5e-5)
    assert answer.found is None
    assert answer.error.startswith("too long to tell (p > 6.5e-05), as p allows for its 66 windows")
