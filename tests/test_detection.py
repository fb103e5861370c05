"""What a detection says in words, and that it is no truth value."""

import pytest

from wmcore import Detection, Detector, Watermark, WatermarkError
from wmcore.detection import LEAST_TOKENS, LEVEL


def detection(p, length=200, *, hits=3, resamples=1999, method="permutation", windows=1):
    return Detection(p, -9.0, 0, 0, length, resamples, hits, "cpu", method, windows=windows)


@pytest.mark.parametrize(
    ("found", "level", "answer", "words"),
    [
        (detection(0.001), LEVEL, True, "found (p <= 0.001)"),
        (
            detection(0.0011),
            LEVEL,
            False,
            "not found (p > 0.001): this does not say that the text is not ours",
        ),
        (detection(0.02), 0.05, True, "found (p <= 0.05)"),
        (detection(1e-30, method="bound", hits=0, resamples=0), 1e-9, True, "found (p <= 1e-09)"),
        (
            detection(0.3, LEAST_TOKENS - 1),
            LEVEL,
            None,
            "too short to tell (p > 0.001): 24 tokens, but 25 are needed",
        ),
        (detection(1e-4, 5), LEVEL, True, "found (p <= 0.001)"),
        (
            detection(0.01, hits=0, resamples=99),
            LEVEL,
            None,
            "too few resamples to tell (p > 0.001): use at least 1020 (--resamples 1020)",
        ),
        (
            detection(0.3, hits=0, resamples=199, windows=60),
            LEVEL,
            None,
            "too few resamples to tell (p > 0.001): use at least 61200 (--resamples 61200)",
        ),
        (
            detection(0.01, method="calibrated", hits=0, resamples=99),
            LEVEL,
            None,
            "too few resamples to tell (p > 0.001): use at least 1020 (--resamples 1020)",
        ),
        (detection(0.02, hits=1, resamples=99), LEVEL, False, None),
        (
            detection(0.002, hits=0, resamples=999),
            0.0,
            None,
            "too few resamples to tell (p > 0): no number of them gives 0",
        ),
        (Detection.failed("it is broken", "cpu"), LEVEL, None, "not tested: it is broken"),
    ],
)
def test_words(found, level, answer, words):
    assert found.found(level) is answer
    assert words is None or found.verdict(level) == words
    assert ("not found" in found.verdict(level)) == (answer is False)
    if answer is False:
        assert found.verdict(level).endswith("this does not say that the text is not ours")


def test_the_number_of_resamples_that_is_asked_for_is_enough():
    """With the hint, a text that fits better than all resamples is found: with the bound's epsilon or without."""
    for windows in (1, 66):
        needed = int(detection(0.5, hits=0, windows=windows).verdict().split()[-1].rstrip(")"))
        assert windows * 1.01 / (needed + 1) <= LEVEL


@pytest.mark.parametrize("level", [-0.1, 1.1, "x", True, float("nan")])
def test_a_level_out_of_range(level):
    with pytest.raises(WatermarkError, match="level is"):
        detection(0.5).verdict(level)


def test_a_detection_is_neither_true_nor_false():
    watermark = Watermark.create("exp", vocab_size=50, key_length=8)
    (found,) = Detector(watermark).detect([list(range(30))])
    with pytest.raises(TypeError, match=r"use detection\.p_value <= level, or detection\.verdict"):
        assert not found
    with pytest.raises(TypeError):
        any([found])
