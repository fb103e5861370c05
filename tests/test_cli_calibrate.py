"""`wmcore calibrate`, and what `wmcore detect` makes of its file."""

import json
from pathlib import Path

import numpy as np
from commands import V, one_line, rows

from wmcore import Detector, Watermark
from wmcore.calibration import Calibration

CALIBRATE = ("calibrate", "-w", "mark.json", "--seed", 1, "--resamples", 60, "-o", "null.npz")
DETECT = ("detect", "-w", "mark.json", "--tokens-field", "tokens", "--json", "in.jsonl")
CORPUS = ("--tokens-field", "tokens", "in.jsonl")


def write_texts():
    texts = [np.random.default_rng(m).integers(0, V, m) for m in (12, 25, 30)]
    lines = [json.dumps({"tokens": text.tolist()}) for text in texts]
    Path("in.jsonl").write_text("\n".join([*lines, '{"tokens": [9999]}', '{"text": "a"}']))
    return texts


def test_detect_takes_p_from_the_file(wm, mark):
    texts = write_texts()
    lengths = ("--lengths", "10, 20,30")
    code, out, err = wm(*CALIBRATE, *lengths)
    assert (code, out) == (0, "")
    assert err == "wmcore: null.npz: exp-edit, 60 resamples at each of 10, 20, 30 tokens\n"
    drawn = Calibration.load("null.npz")
    assert drawn.statistics.shape == (3, 60)

    code, out, err = wm(*CALIBRATE, *lengths, *CORPUS, "--force")
    assert code == 0
    assert err.count("\n") == 4
    assert "in.jsonl:4: " in err
    assert "in.jsonl:5: " in err
    assert "2 of 5 documents could not be used" in err
    fitted = Calibration.load("null.npz")
    mark = Watermark.load("mark.json")
    again = Calibration.fit(mark, [10, 20, 30], 60, tokens=texts, seed=1)
    assert (fitted.statistics == again.statistics).all()
    assert (fitted.statistics != drawn.statistics).any()

    code, out, _ = wm(*DETECT, "--calibration", "null.npz")
    assert code == 0
    expected = Detector(mark).detect(texts, calibration=fitted)
    assert [row["p_value"] for row in rows(out)[:3]] == [one.p_value for one in expected]
    assert {row["method"] for row in rows(out)[:3]} == {"calibrated"}


def test_texts_are_read_with_the_tokenizer(wm, mark, letters):
    Path("a.txt").write_text("the quick brown fox jumps over the lazy dog")
    options = ("--lengths", "10,20", "a.txt")
    one_line(wm(*CALIBRATE, *options), "no --tokenizer given and the watermark names none")
    assert wm(*CALIBRATE, *options, "--tokenizer", "letters")[0] == 0


def test_mistakes(wm, mark):
    write_texts()
    one_line(wm(*CALIBRATE[:-1], "null"), r"--output null: .*end it in \.npz")
    for lengths in ("10;20", "", "10,,20", "a"):
        one_line(
            wm(*CALIBRATE, "--lengths", lengths), "--lengths .*: give whole numbers with commas"
        )
    one_line(wm(*CALIBRATE, "--lengths", "0"), "a length in lengths")
    options = ("--lengths", "31", "--tokens-field", "tokens", "in.jsonl")
    assert "no text of tokens is that long" in wm(*CALIBRATE, *options)[2]
    Path("null.npz").write_text("old")
    one_line(wm(*CALIBRATE), r"null\.npz: the file exists; choose another or add --force")
    one_line(wm(*DETECT, "--calibration", "null.npz"), "cannot be read .*'wmcore calibrate'")
    assert wm(*CALIBRATE, "--lengths", "10,30", "--force")[0] == 0
    for option in ("--resamples", "--stop-after", "--seed"):
        one_line(
            wm(*DETECT, "--calibration", "null.npz", option, 5),
            f"--calibration has its own statistics: leave {option} out",
        )
    for option in ("--spans", "--verdict-only"):
        one_line(wm(*DETECT, "--calibration", "null.npz", option), "is for plain p-values")
    err = wm(*DETECT, "--calibration", "null.npz", "--scheme", "exp-free")[2]
    assert "the calibration was made for alignment 'edit'" in err
