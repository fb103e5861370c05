"""What has the wrong shape is said, with the remedy: no call tests something else without a word."""

import io
import re
from collections import UserDict
from pathlib import Path

import numpy as np
import pytest

from wmcore import Detector, Watermark, WatermarkError, generate
from wmcore.attacks import substitute
from wmcore.calibration import Calibration
from wmcore.identify import identify
from wmcore.locate import locate
from wmcore.prefix import prefix_curve
from wmcore.scan import scan
from wmcore.verdict import verdicts

MARK = Watermark.create("exp", vocab_size=50, key_length=8)
DETECTOR = Detector(MARK, threads=1)


class Table:
    """As a frame of pandas or polars, which lists its columns, or a table of Arrow."""

    columns = ("text",)

    def __iter__(self):
        return iter(self.columns)


class Encoding(UserDict):
    """As transformers' BatchEncoding."""


LISTS = {
    "texts": [DETECTOR.detect, lambda t: verdicts(DETECTOR, t), lambda t: identify(t, [MARK])],
    "tokens": [lambda t: Calibration.fit(MARK, [2], 10, tokens=t)],
    "prompts": [lambda t: generate(None, t, MARK, max_new_tokens=5)],
}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("one text", r"is one string: give a list of texts, as in \[text\]"),
        (b"one text", "is one string"),
        (
            Encoding(input_ids=[[1, 2]]),
            r"is a Encoding, which .* tokenizer\(texts\)\['input_ids'\]",
        ),
        ({"input_ids": [[1, 2]], "attention_mask": [[1, 1]]}, r"is a dict.*\['input_ids'\]"),
        ({"a.txt": "text"}, "is a dict, which maps names to values: give the texts .* as a list"),
        ({"a", "b"}, "is a set, which has no order"),
        ([1, 2, 3], r"is one text of token ids: give a list of texts, as in \[ids\]"),
        (np.arange(3), "is one text of token ids"),
        (Path("a.txt"), r"is a \w*Path, but must be a list of texts"),
        (Table(), r"is a Table, a table: give one of its columns, as in list\(table\['text'\]\)"),
        (
            io.StringIO("one text"),
            r"is an open file: give a list of texts, as in \[file\.read\(\)\]",
        ),
        (7, "is a int, but must be a list of texts"),
        (None, "is a NoneType, but must be a list of texts"),
    ],
)
def test_a_list_of_texts_is_needed(name, texts, message):
    for call in LISTS[name]:
        if texts is None and name == "tokens":
            continue  # which means: none
        with pytest.raises(TypeError, match=f"{name} {message}"):
            call(texts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            {"input_ids": [1, 2]},
            r"it is a dict, .* give the token ids in it, such as its \['input_ids",
        ),
        (np.ones((2, 3), int), "2 dimensions, but one is needed: give its rows as texts"),
        (["two", "words"], "give a text as one string, or its token ids"),
    ],
)
def test_what_is_said_of_one_text(text, message):
    bad, fine = DETECTOR.detect([text, [1, 2]])
    assert re.search(message, bad.error)
    assert fine.error is None
    for call in (locate, prefix_curve):
        with pytest.raises(ValueError, match=message):
            call(DETECTOR, text)


@pytest.mark.parametrize("other", [MARK, "mark.json", None])
def test_a_detector_is_needed(other):
    for call in (
        lambda: locate(other, [1, 2]),
        lambda: prefix_curve(other, [1, 2]),
        lambda: verdicts(other, [[1, 2]]),
    ):
        with pytest.raises(TypeError, match=r"must be a Detector: use Detector\(watermark\)"):
            call()


@pytest.mark.parametrize("other", ["mark.json", Path("mark.json"), {"scheme": "exp"}, DETECTOR])
def test_a_watermark_is_needed(other, tmp_path):
    for call in (
        lambda: Detector(other),
        lambda: Calibration.fit(other, [2]),
        lambda: identify([[1]], [other]),
        lambda: generate(None, ["a"], other, max_new_tokens=5),
        lambda: scan(tmp_path, other),
    ):
        with pytest.raises(TypeError, match=r"must be a Watermark: use Watermark\.load\(path\)"):
            call()


def test_watermarks_are_a_list():
    for one in (MARK, {"a": MARK}):
        with pytest.raises(TypeError, match=r"watermarks is a .* but must be a list of watermarks"):
            identify([[1]], one)


def test_lengths_are_a_list_and_a_tokenizer_is_called():
    with pytest.raises(TypeError, match="lengths is a int, but must be a list"):
        Calibration.fit(MARK, 20)
    with pytest.raises(TypeError, match="tokenizer is a int, but must be a name, or a tokenizer"):
        Detector(MARK, tokenizer=7)


def test_what_transformers_asks_of_a_watermark():
    with pytest.raises(TypeError, match=r"WatermarkConfig\(watermark\)"):
        MARK.validate()


def test_columns_of_arrow():
    """NumPy would take the bytes of an Arrow string for token ids."""
    pa = pytest.importorskip("pyarrow")
    detector = Detector(
        MARK, tokenizer=lambda text, **_: {"input_ids": [ord(c) % 50 for c in text]}
    )
    for kind in (pa.string(), pa.large_string()):
        assert detector.detect(pa.array(["abcde"], kind)) == detector.detect(["abcde"])
    assert detector.detect(pa.array([[1, 2, 3]])) == detector.detect([[1, 2, 3]])
    scalar = pa.array(["abcde"])[0]
    assert locate(detector, scalar) == locate(detector, "abcde")
    with pytest.raises(WatermarkError, match=r"a scalar of Arrow: give its as_py\(\)"):
        substitute(scalar, 0.5, vocab_size=50, seed=1)
