"""`Panel`: the detectors' own answers, joined, with p corrected for the number of watermarks."""

import numpy as np
import pytest
from commands import Letters
from services import V, letters_of, text_of, watermark

from wmcore import Detector, WatermarkError
from wmcore.locate import locate
from wmcore.service.panel import FOUND, NOT_FOUND, NOT_TESTED, TOO_SHORT, Panel, TooManyTokens
from wmcore.verdict import verdicts


@pytest.fixture(scope="module")
def marks():
    return {"january": watermark(1), "february": watermark(2), "march": watermark(3)}


@pytest.fixture(scope="module")
def panel(marks):
    return Panel(marks)


def noise(seed, length=60):
    return np.random.default_rng(seed).integers(V, size=length).tolist()


def test_p_is_the_least_of_all_detectors_times_their_number(panel, marks):
    texts = [text_of(marks["january"]), text_of(marks["march"]), noise(1), noise(2, 300)]
    level = 0.001 / 3
    each = [Detector(mark).detect(texts, level=level) for mark in marks.values()]
    for i, answer in enumerate(panel.answer(texts)):
        best = min((records[i] for records in each), key=lambda one: (one.p_value, one.statistic))
        assert answer.p_value == min(1, 3 * best.p_value)
        assert (answer.statistic, answer.length) == (best.statistic, best.length)
        assert (answer.verdict == FOUND) == (answer.p_value <= 0.001)
    first, second, third, _ = panel.answer(texts)
    assert (first.watermark, second.watermark, third.watermark) == ("january", "march", None)
    assert first.fingerprint == marks["january"].fingerprint
    assert third.fingerprint is None
    assert third.verdict == NOT_FOUND


def test_texts_without_a_watermark_are_found_as_often_as_the_level_says(marks):
    """The corrected p is at most 0.2 in at most 0.2 of texts: with 150 of them, 30 on average, and more than 50 by
    chance once in 30,000 times (4 standard errors of 4.9)."""
    answers = Panel(marks, level=0.2).answer([noise(seed, 30) for seed in range(150)])
    found = sum(answer.verdict == FOUND for answer in answers)
    assert 0 < found <= 50
    assert found == sum(answer.p_value <= 0.2 for answer in answers)


def test_every_level_that_is_taken_can_be_reached():
    """A text whose p no bound proves, and that fits better than all resamples, is found with eight watermarks, too."""
    many = {str(i): watermark(i) for i in range(1, 9)}
    panel = Panel(many)
    found = [panel.answer([text_of(many["1"], length)])[0] for length in range(5, 15)]
    assert any(one.verdict == FOUND and one.p_value > 1e-6 for one in found)
    with pytest.raises(WatermarkError, match=r"must be at least 1\.6e-05 for 8 watermarks"):
        Panel(many, level=1e-5)
    with pytest.raises(WatermarkError, match="level is 0, but"):
        Panel(many, level=0)


def test_too_short_and_not_tested(panel):
    short, empty, outside, no_ids, text = panel.answer([[1] * 10, [], [V] * 30, [[1]], "text"])
    assert short.verdict == TOO_SHORT
    assert short.p_value is not None
    assert (empty.verdict, empty.length, empty.p_value) == (TOO_SHORT, 0, None)
    assert (outside.verdict, outside.length) == (NOT_TESTED, 30)
    assert "outside the vocabulary" in outside.error
    assert "january" not in outside.error  # the same is wrong under all
    assert (no_ids.verdict, text.verdict) == (NOT_TESTED, NOT_TESTED)
    assert not panel.reads_texts


def test_watermarks_of_different_vocabularies():
    small, large = watermark(1), watermark(2, vocab_size=1000)
    panel = Panel({"small": small, "large": large})
    found, lost = panel.answer([text_of(large), [999] * 40])
    assert (found.verdict, found.watermark) == (FOUND, "large")
    assert found.error.startswith("watermark small: token ")
    assert lost.verdict == NOT_FOUND
    assert "watermark small: token 999 at position 0 is outside" in lost.error


def test_a_span_is_the_strongest_passage_that_locate_proves(marks):
    mark = marks["january"]
    panel = Panel({"one": mark}, scheme="exp-local", tokenizer=Letters())
    tokens = noise(3, 50) + text_of(mark, 40) + noise(4, 50)
    (by_tokens,), (by_text,) = panel.answer([tokens]), panel.answer([letters_of(tokens)])
    (span,) = locate(Detector(mark), tokens, resamples=1)
    assert (by_tokens.span.start, by_tokens.span.stop) == (span.start, span.stop)
    assert 40 <= span.start < 60 < 80 < span.stop <= 95
    assert by_text.p_value == by_tokens.p_value
    assert by_text.span.start == by_tokens.span.start
    assert panel.answer([noise(5)])[0].span is None


def test_a_text_in_windows_has_a_window_as_its_span(monkeypatch):
    mark = watermark(1, key_length=40)
    panel = Panel({"one": mark})
    engine = panel.detectors["one"].engine
    monkeypatch.setattr(type(engine), "error", lambda _, m: "too long" if m > 256 else None)
    monkeypatch.setattr("wmcore.service.panel.locate", lambda *_, **__: [])
    (answer,) = panel.answer([noise(6, 300) + text_of(mark, 200)])
    assert answer.windows == 3
    assert (answer.verdict, answer.length) == (FOUND, 500)
    assert (answer.span.start, answer.span.stop) == (244, 500)


def test_a_detail_is_what_a_page_needs(panel, marks):
    tokens = text_of(marks["march"])
    (answer,) = panel.answer([tokens], detail=True)
    detail = answer.detail
    assert detail.tokens.tolist() == tokens
    assert detail.scheme == marks["march"].scheme
    assert detail.detection.p_value == answer.p_value
    assert len(detail.detection.alignment.positions) >= 55
    assert [span.start for span in detail.spans] == [answer.span.start]
    assert panel.answer([tokens])[0].detail is None


def test_the_longest_text_is_refused_before_anything_is_tested(marks, monkeypatch):
    panel = Panel(marks, most_tokens=60)
    assert len(panel.answer([noise(1, 60)])) == 1
    monkeypatch.setattr(Detector, "detect", lambda *_, **__: pytest.fail("tested"))
    with pytest.raises(TooManyTokens, match="text 1 has 61 tokens, but at most 60"):
        panel.answer([noise(1, 60), noise(2, 61)])


def test_a_text_of_too_many_bytes_is_not_even_read(marks):
    calls = []

    class Counted(Letters):
        def __call__(self, text, **options):
            calls.append(text)
            return super().__call__(text, **options)

    panel = Panel(marks, tokenizer=Counted(), most_tokens=60)
    with pytest.raises(TooManyTokens, match="text 1 has 601 bytes, but at most 60 tokens"):
        panel.read(["a", "é" * 300 + "a"])
    assert not calls
    with pytest.raises(TooManyTokens, match="text 0 has 600 tokens"):
        panel.read(["a" * 600])
    assert len(calls) == 1  # not once for each watermark


def test_coarse_answers_are_verdicts_and_nothing_else(panel, marks):
    contents = [text_of(marks["march"]), noise(1), list(range(10)) * 4, [], [V] * 40]
    answers = panel.judge_coarsely(panel.read(contents))
    each = [verdicts(Detector(mark), contents, level=0.001 / 3) for mark in marks.values()]
    found = [any(one.found for one in records) for records in zip(*each, strict=True)]
    assert found == [True, False, False, False, False]
    expected = [FOUND, NOT_FOUND, TOO_SHORT, TOO_SHORT, NOT_TESTED]
    assert [answer.verdict for answer in answers] == expected
    for answer in answers:
        said = {name for name, value in vars(answer).items() if value not in (None, 1)}
        assert said <= {"verdict", "error"}


def test_a_coarse_answer_says_where_not_all_watermarks_could_be_sought():
    small, large = watermark(1), watermark(2, vocab_size=1000)
    panel = Panel({"small": small, "large": large})
    texts = panel.read([text_of(large), list(range(900, 960)), noise(1)])
    found, lost, noisy = panel.judge_coarsely(texts)
    assert (found.verdict, found.error) == (FOUND, None)
    assert lost.verdict == NOT_FOUND
    assert lost.error.startswith("under 1 of 2 watermarks: token 900 at position 0 is outside the")
    assert (noisy.verdict, noisy.error) == (NOT_FOUND, None)


def test_a_text_of_more_windows_than_can_tell_is_not_tested(monkeypatch):
    """Neither tier calls it not found; a proven bound can still find it."""
    monkeypatch.setattr("wmcore.windows.MOST_RESAMPLES", 2999)
    panel = Panel({"a": watermark(1), "b": watermark(2)})
    engine = panel.detectors["a"].engine
    monkeypatch.setattr(type(engine), "error", lambda _, m: "too long" if m > 256 else None)
    texts = panel.read([noise(6, 600), noise(6, 300) + text_of(watermark(2), 256)])
    for judge in (panel.judge, panel.judge_coarsely):
        lost, found = judge(texts)
        assert lost.verdict == NOT_TESTED
        assert lost.error.startswith("too long to tell (p > 0.0005), as p allows for its 4 windows")
        assert found.verdict == FOUND


def test_no_watermark_is_an_error():
    with pytest.raises(WatermarkError, match="watermarks is empty"):
        Panel({})
