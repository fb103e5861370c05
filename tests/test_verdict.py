"""Verdicts agree with p-values, and say nothing more."""

import dataclasses
import json
import os

import numpy as np
import pytest
from commands import V, one_line, rows

from wmcore import Detector, Key, Watermark, WatermarkError
from wmcore.verdict import Verdict, verdicts


@pytest.fixture(scope="module")
def detector():
    watermark = Watermark.create("exp", vocab_size=500, key_length=64, key=Key(bytes(32)))
    return Detector(watermark, threads=1)


@pytest.fixture(scope="module")
def texts(detector):
    """Texts of 60 tokens of which 0, 2, 4, ... fit the key best."""
    best = detector.engine.matrix(detector.costs, np.arange(500)).argmin(axis=0)
    rng = np.random.default_rng(0)
    made = []
    for count in range(0, 40, 2):
        text = rng.integers(0, 500, size=60)
        some = rng.choice(60, count, replace=False)
        text[some] = best[some]
        made.append(text)
    return made


@pytest.mark.parametrize("level", [0.1, 0.001, 1e-4])
def test_a_verdict_is_p_at_a_level(detector, texts, level):
    p = np.array([d.p_value for d in detector.detect(texts, resamples=99_999, seed=3)])
    answers = verdicts(detector, texts, level=level)
    assert {a.error for a in answers} == {None}
    assert all(a.found is True for a, value in zip(answers, p, strict=True) if value < level / 3)
    assert all(a.found is False for a, value in zip(answers, p, strict=True) if value > level * 3)
    assert answers[0].found is False
    assert answers[-1].found is True
    assert verdicts(detector, texts, level=level) == answers
    assert verdicts(detector, texts[::-1], level=level) == answers[::-1]


def test_nothing_but_the_answer_depends_on_the_key(texts):
    assert [f.name for f in dataclasses.fields(Verdict)] == ["found", "error"]
    batch = [texts[0], [7], [7] * 60, [500] * 60, "text", [], texts[0][:24].tolist()]
    others = {
        tuple(a.error for a in verdicts(Detector(mark, threads=1), batch))
        for key in range(5)
        for mark in [Watermark.create("exp", vocab_size=500, key=Key(bytes([key] * 32)))]
    }
    (errors,) = others
    assert errors[0] is None
    assert errors[1] == "the text has 1 different tokens, but 25 are needed"
    assert errors[1] == errors[2]
    assert all(error is not None for error in errors[1:])


def test_with_statistics_a_stranger_forges(detector):
    """Why there are verdicts: one question for each token, and no key."""
    answers = detector.detect([[token] for token in range(500)], resamples=1)
    best = {}
    for token, answer in enumerate(answers):
        if answer.statistic < best.get(answer.shift, (0.0, 0))[0]:
            best[answer.shift] = answer.statistic, token
    forged = [best[row][1] for row in range(64) if row in best]
    assert detector.detect([forged], resamples=999)[0].p_value == 0.001
    blind = verdicts(detector, [[token] for token in range(500)])
    assert {(answer.found, answer.error) for answer in blind} == {
        (None, "the text has 1 different tokens, but 25 are needed")
    }


def test_numbers_out_of_range(detector, texts):
    with pytest.raises(
        WatermarkError, match=r"level is 0.5, but must be a number from 1e-05 to 0.1"
    ):
        verdicts(detector, texts, level=0.5)
    with pytest.raises(WatermarkError, match="least_distinct is 0"):
        verdicts(detector, texts, least_distinct=0)
    with pytest.raises(TypeError, match="one string"):
        verdicts(detector, "text")
    assert verdicts(detector, []) == []


def test_the_command_says_no_more(wm, mark, letters):
    rng = np.random.default_rng(1)
    with open("in.jsonl", "w") as file:
        for tokens in (rng.permutation(V)[:40].tolist(), [1]):
            file.write(json.dumps({"tokens": tokens}) + "\n")
    options = ("detect", "-w", mark, "--tokens-field", "tokens", "--verdict-only")
    code, out, err = wm(*options, "--json", "in.jsonl")
    assert code == 0
    first, second = rows(out)
    assert set(first) == {"document", "found", "error"}
    assert (first["found"], first["error"]) == (False, None)
    assert second["found"] is None
    assert "1 of 2 documents could not be tested" in err
    code, out, _ = wm(*options, "in.jsonl")
    assert code == 0
    assert "not found" in out
    assert "statistic" not in out
    for more in (("--resamples", 99), ("--seed", 1), ("--stop-after", 3)):
        one_line(wm(*options, *more, "in.jsonl"), f"leave {more[0]} out")
    assert "not found (p > 0.01)" in wm(*options, "--level", 0.01, "in.jsonl")[1]
    one_line(wm(*options, "--html", "page.html", "in.jsonl"), "--html shows more than found or not")
    assert not os.path.exists("page.html")


def test_a_verdict_is_neither_true_nor_false():
    with pytest.raises(TypeError, match=r"use verdict\.found"):
        bool(Verdict(False))
