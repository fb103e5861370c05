"""The calibrated null: close to the exact test, labelled, and refused where it does not fit."""

import math

import numpy as np
import pytest

from wmcore import SCHEMES, Detector, Watermark, WatermarkError
from wmcore.calibration import Calibration

V = 400


def make(scheme="exp-edit", **settings):
    return Watermark.create(scheme, vocab_size=V, **{"key_length": 32, **settings})


@pytest.mark.parametrize("block_length", [None, 10])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_calibrated_p_values_are_close_to_exact_ones(scheme, block_length):
    watermark = make(scheme, block_length=block_length)
    calibration = Calibration.fit(watermark, [20, 30, 40], 3000, seed=1)
    rng = np.random.default_rng(2)
    texts = [rng.integers(0, V, size=m) for m in (20, 25, 30, 33, 40) for _ in range(20)]
    detector = Detector(watermark)
    exact = detector.detect(texts, resamples=3000, stop_after=None, seed=3)
    found = detector.detect(texts, calibration=calibration)
    for a, b in zip(found, exact, strict=True):
        assert (a.statistic, a.shift, a.block) == (b.statistic, b.shift, b.block)
        assert (a.method, b.method) == ("calibrated", "permutation")
        assert a.resamples == 3000
        assert a.p_error == pytest.approx(math.sqrt(a.p_value * (1 - a.p_value) / 3001))
        assert b.p_error is None
        # Two samples of 3,000 of nearly the same law: standard error at most 0.013; six of them, and 0.02 for
        # other repetitions and for lengths between the calibrated ones.
        assert abs(a.p_value - b.p_value) < 6 * 0.013 + 0.02


def test_the_sample_is_the_exact_null_of_its_texts():
    watermark = make(key_length=17)
    text = np.arange(12)
    calibration = Calibration.fit(watermark, [12], 501, tokens=[text] * 3, seed=7)
    for level in (0, 250, 500):
        phi = calibration.statistics[0, level]
        assert calibration.hits(phi, 12) >= level + 1
        assert calibration.hits(phi - 0.001, 12) <= level
    # The same resamples as a detector's with this seed.
    (found,) = Detector(watermark).detect([text], resamples=501, stop_after=None, seed=7)
    (looked_up,) = Detector(watermark).detect([text], calibration=calibration)
    assert (found.hits, found.p_value) == (looked_up.hits, looked_up.p_value)


def test_saved_and_loaded(tmp_path):
    watermark = make("its-edit")
    calibration = Calibration.fit(watermark, [10, 20], 60, seed=1)
    path = tmp_path / "null.npz"
    calibration.save(path)
    loaded = Calibration.load(path)
    assert loaded.test == calibration.test
    assert (loaded.statistics == calibration.statistics).all()
    assert (loaded.lengths == [10, 20]).all()
    assert watermark.key.secret_hex.encode() not in path.read_bytes()
    text = [np.arange(15)]
    by_each = [Detector(watermark).detect(text, calibration=c) for c in (calibration, loaded)]
    assert by_each[0] == by_each[1]


@pytest.mark.parametrize("rows", [slice(None, None, -1), slice(0, 0)])
def test_files_out_of_order(tmp_path, rows):
    fitted = Calibration.fit(make(), [10, 20], 60)
    path = tmp_path / "null.npz"
    Calibration(fitted.test, fitted.lengths[rows], fitted.statistics).save(path)
    with pytest.raises(WatermarkError, match="damaged, or not a calibration"):
        Calibration.load(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"text", None])
def test_files_that_are_no_calibration(tmp_path, content):
    path = tmp_path / "null.npz"
    if content is None:
        with open(path, "wb") as file:
            np.savez(file, header=np.array({"a": 1}, dtype=object))  # a pickle inside
    else:
        path.write_bytes(content)
    with pytest.raises(WatermarkError, match="cannot be read"):
        Calibration.load(path)
    with pytest.raises(WatermarkError, match="No such file"):
        Calibration.load(tmp_path / "none.npz")


def test_what_does_not_fit_is_refused():
    watermark = make()
    calibration = Calibration.fit(watermark, [10, 20], 50)
    short, fine, long = Detector(watermark).detect(
        [np.arange(9), np.arange(10), np.arange(21)], calibration=calibration
    )
    assert "9 tokens are outside the calibrated lengths 10 to 20" in short.error
    assert "21 tokens" in long.error
    assert fine.error is None
    for other in (make("exp"), make(key_length=33), make(gap=1.0), make(block_length=5)):
        with pytest.raises(WatermarkError, match="the calibration was made for"):
            Detector(other).detect([np.arange(10)], calibration=calibration)
    for scheme in ({}, {**calibration.test, "more": 1}):
        with pytest.raises(WatermarkError, match="the calibration was made for"):
            Calibration(scheme, calibration.lengths, calibration.statistics).check(
                watermark.statistic, watermark.problem()
            )
    with pytest.raises(WatermarkError, match="at least one token"):
        Calibration.fit(watermark, [-3])
    with pytest.raises(WatermarkError, match="tokens: text 1 is no sequence"):
        Calibration.fit(watermark, [2], tokens=[[1, 2, 3], "abcd"])
    with pytest.raises(WatermarkError, match="lengths is empty"):
        Calibration.fit(watermark, [])
    with pytest.raises(WatermarkError, match="lengths holds 9000: a block of 9000"):
        Calibration.fit(watermark, [9000])
    with pytest.raises(WatermarkError, match="no text of tokens is that long"):
        Calibration.fit(watermark, [50], tokens=[np.arange(49)])
