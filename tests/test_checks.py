"""What a caller gives: token ids that would be read as something else are refused, and messages stay short."""

import array

import numpy as np
import pytest

from wmcore import Detector, Watermark, WatermarkError
from wmcore.checks import real_number, string, token_ids, truth, whole_number
from wmcore.errors import reason, shown
from wmcore.identify import identify
from wmcore.plan import MOST, Plan
from wmcore.prefix import prefix_curve
from wmcore.scan import ScanSettings

MASKED = np.ma.array([1, 2, 3], mask=[False, True, False])


class Wraps:
    def __array__(self, dtype=None, copy=None):
        return MASKED


class Broken:
    def __repr__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MASKED, "it is a masked array: give the token ids that are meant"),
        (np.ma.array([1, 2]), "a masked array"),
        (Wraps(), "a masked array"),
        (MASKED[None], "a masked array"),
        ([True, 2], "one of its items is a truth value"),
        ((2, np.True_), "one of its items is a truth value"),
        (b"abc", "it is bytes"),
        (bytearray(b"abc"), "it is bytes"),
    ],
)
def test_what_is_no_text_of_token_ids(text, message):
    with pytest.raises(TypeError, match=message):
        token_ids(text)
    detector = Detector(Watermark.create("exp", vocab_size=200, key_length=40), threads=1)
    bad, good = detector.detect([text, [1, 2]], resamples=1)
    assert message in bad.error
    assert good.p_value is not None
    if isinstance(text, np.ma.MaskedArray) and text.ndim == 1:
        with pytest.raises(TypeError, match="texts is one text"):
            detector.detect(text)


def test_buffers_are_read_and_one_of_them_is_no_list_of_texts():
    for text in (memoryview(np.array([1, 2])), array.array("h", [1, 2])):
        assert token_ids(text).tolist() == [1, 2]
    detector = Detector(Watermark.create("exp", vocab_size=9, key_length=40), threads=1)
    with pytest.raises(TypeError, match="texts is one text"):
        detector.detect(memoryview(np.array([1, 2])))


def test_a_foreign_error_is_told_on_one_line():
    class Fails:
        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("first\n  second" + "x" * 5000)

    detector = Detector(Watermark.create("exp", vocab_size=9, key_length=40), threads=1)
    (found,) = detector.detect([Fails()])
    assert "first secondxxx" in found.error
    assert len(found.error) < 300
    assert reason(MemoryError()) == "MemoryError"


LONG = {
    "digits": 10**5000,
    "lines": np.zeros((9, 9)),
    "string": "x" * 9000,
    "list": [1] * 9000,
    "broken": Broken(),
}


@pytest.mark.parametrize("name", LONG)
def test_a_message_shows_a_value_on_one_short_line(name):
    value = LONG[name]
    assert len(shown(value)) <= 100
    assert "\n" not in shown(value)
    for check in (
        lambda: whole_number("count", value, 1, 9),
        lambda: real_number("gap", value, 0, 9),
        lambda: truth("bound", value),
        lambda: string("name", value if not isinstance(value, str) else 1),
        lambda: Plan(resamples=value),
        lambda: ScanSettings(first=value),
        lambda: Watermark.create(value, vocab_size=9),
    ):
        with pytest.raises(WatermarkError) as caught:
            check()
        assert len(str(caught.value)) < 300
        assert "\n" not in str(caught.value)


def test_counts_end_before_a_kernel_overflows():
    """2**63 was an OverflowError in the middle of a test."""
    mark = Watermark.create("exp", vocab_size=9, key_length=40)
    detector = Detector(mark, threads=1)
    for name in ("resamples", "stop_after"):
        for value in (MOST + 1, 2**63, 10**400):
            options = {"resamples": 9, name: value}
            with pytest.raises(WatermarkError, match=name):
                detector.detect([[1, 2]], **options)
            with pytest.raises(WatermarkError, match=name):
                identify([[1, 2]], [mark], **options)
    with pytest.raises(WatermarkError, match="resamples"):
        prefix_curve(detector, [1, 2], resamples=2**63)
    with pytest.raises(WatermarkError, match="seed is .* at most 4,096 bits"):  # noqa: RUF043
        detector.detect([[1, 2]], resamples=9, seed=10**5000)
    assert detector.detect([[1, 2]], resamples=9, seed=-(2**4000))[0].p_value > 0
    assert detector.detect([[1, 2]], resamples=9, stop_after=MOST)[0].p_value > 0


def test_truth_values_and_names_are_what_they_are():
    for value in ("no", 0, 1, None, np.int8(0)):
        with pytest.raises(WatermarkError, match=r"bound is .* but must be True or False"):
            Plan(bound=value)
        with pytest.raises(WatermarkError, match=r"excerpts is .* but must be True or False"):
            ScanSettings(excerpts=value)
    assert Plan(bound=np.False_).bound is False
    for name in (
        "text_field",
        "id_field",
        "tokens_field",
        "tokenizer",
        "scheme",
        "score",
        "first",
        "fdr",
    ):
        with pytest.raises(WatermarkError, match=f"{name} is 3, but must be a string"):
            ScanSettings(**{name: 3})
    for name in ("gap", "block_length"):
        with pytest.raises(WatermarkError, match=f"{name} is -1"):
            ScanSettings(**{name: -1})
    plain = ScanSettings(gap=np.float32(0.5), block_length=np.uint8(7))
    assert (type(plain.gap), type(plain.block_length)) == (float, int)


def test_things_of_another_type_are_refused_where_they_are_given():
    mark = Watermark.create("exp", vocab_size=9, key_length=40)
    for backend in (0, None, object()):
        with pytest.raises(WatermarkError, match=r"backend is .* but must be a name"):
            Detector(mark, backend=backend)
    for block_length in (np.zeros(3), "0", 0.0, []):
        with pytest.raises(WatermarkError, match=r"block_length is .* but must be a whole number"):
            Detector(mark, block_length=block_length)
    with pytest.raises(TypeError, match="watermark 1 is a str, but must be a Watermark"):
        identify([[1]], [mark, "mark.json"])
