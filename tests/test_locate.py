"""Where in a text the watermark is: passages against brute force, their p-values over keys, the bound of segments."""

import json
import math
from itertools import pairwise

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_scored import cases, key_numbers, marked, part
from tiny import words

from wmcore import Detector, Key, Watermark, WatermarkError
from wmcore.locate import locate
from wmcore.plan import Plan
from wmcore.segments import log_segment_bound

V = 300
LOCAL = ["exp-local", "its-local"]


@settings(max_examples=60, deadline=None)
@given(case=cases(), seed=st.integers(0, 99), threads=st.sampled_from([1, 3]))
def test_the_best_segment_equals_the_twin(backend, case, seed, threads):
    problem, scored = case
    costs, number = key_numbers(problem, scored, seed)
    found = backend.log_segments(problem, scored, costs, threads)
    logs, level = np.log(scored.scoring.factors), scored.scoring.levels
    for a in range(scored.size):
        inverse, bins = part(scored, a)
        of = number(a)
        table = [
            [logs[b, level[of(i, j)]] for j in range(problem.n)]
            for i, b in zip(inverse, bins, strict=True)
        ]
        (expected, *_) = naive.best_segment(table)
        if len(inverse) <= problem.n:
            assert found[a] == pytest.approx(expected, abs=1e-9)
        else:  # a segment of n tokens ends there, whether or not a later start were better
            assert max(0.0, max(map(max, table))) - 1e-9 <= found[a] <= expected + 1e-9


def watermarks(scheme, count, key_length, salt=0):
    """Watermarks of keys 0 .. count - 1, each with its detector."""
    for i in range(count):
        key = Key((salt << 32 | i).to_bytes(32, "little"))
        watermark = Watermark.create(scheme, vocab_size=V, key_length=key_length, key=key)
        yield Detector(watermark, backend="cpu", threads=1)


@pytest.mark.parametrize("scheme", LOCAL)
def test_the_bound_is_never_below_the_tail(scheme):
    """Over 3,000 keys the bound is <= a no more often than a, up to 4 standard errors, and not far less often."""
    rng = np.random.default_rng(2)
    texts = [rng.integers(12, size=40), np.zeros(40, np.int64), rng.integers(V, size=25)]
    log_g = []
    for detector in watermarks(scheme, 3000, 32):
        text = texts[len(log_g) % 3]
        packed = detector.engine.pack([text])
        bound = log_segment_bound(detector.engine, detector.costs, packed, packed.lengths)
        log_g.append(float(bound[0]))
    log_g = np.array(log_g)
    for a in (0.3, 0.1, 0.03, 0.01):
        share = (log_g <= math.log(a)).mean()
        assert share <= a + 4 * math.sqrt(a * (1 - a) / len(log_g))
    # Scores of its are at most 0.8 nats a token: 40 tokens seldom reach log(n m) = 7.2 by chance.
    assert log_g.min() <= (math.log(0.3) if scheme == "exp-local" else 3.0)


@pytest.mark.parametrize(("scheme", "tested"), [("exp", None), ("its-local", None), ("exp", 4.5)])
def test_spans_of_unmarked_text_are_family_wise_valid(scheme, tested):
    """600 keys at level 0.05, T = 99: the chance of any span is 4 / 100, since eps counts as one hit."""
    rng = np.random.default_rng(3)
    count, found = 600, 0
    for detector in watermarks(scheme, count, 16, salt=1):
        if tested is not None:
            detector = Detector(
                detector.watermark, scheme="exp-local", gap=tested, score="mixture", threads=1
            )
        text = rng.integers(rng.integers(5, V), size=rng.integers(20, 60))
        found += bool(locate(detector, text, level=0.05, resamples=99, seed=1))
    assert abs(found / count - 0.04) <= 4 * math.sqrt(0.04 * 0.96 / count)


def test_unmarked_text_beside_a_passage_is_family_wise_valid():
    """300 keys with one passage in the middle: spans that touch none of it are no more frequent than the level."""
    rng = np.random.default_rng(4)
    count, found, missed = 300, 0, 0
    for i, detector in enumerate(watermarks("exp", count, 64, salt=2)):
        passage = marked(detector.watermark, 40, 7, seed=i)
        text = np.concatenate([rng.integers(V, size=60), passage, rng.integers(V, size=60)])
        spans = locate(detector, text, level=0.05, resamples=99, seed=1)
        missed += not any(s.start < 100 and s.stop > 60 for s in spans)
        found += any(s.stop <= 60 or s.start >= 100 for s in spans)
    assert missed == 0
    assert found / count <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / count)


@pytest.mark.parametrize("scheme", ["exp", "its"])
def test_two_passages_one_of_them_edited(scheme):
    """Both are found under each of 9 keys. Chance may lengthen a passage or cut it short, seldom by much."""
    rng = np.random.default_rng(5)
    errors = []
    for i, detector in enumerate(watermarks(scheme, 9, 128, salt=4)):
        first, second = (marked(detector.watermark, m, 30, seed=(i, m)) for m in (60, 90))
        second = np.delete(second, [30, 60])
        plain = [rng.integers(V, size=m) for m in (200, 250, 150)]
        text = np.concatenate([plain[0], first, plain[1], second, plain[2]])
        spans = locate(detector, text, resamples=199, seed=1)
        more = Detector(detector.watermark, backend="cpu", threads=3)
        assert spans == locate(more, text, resamples=199, seed=1)
        assert len(spans) == 2
        for span, start, stop in zip(spans, (200, 510), (260, 598), strict=True):
            errors.append(abs(span.start - start) + abs(span.stop - stop))
            path = span.alignment
            assert path.positions.tolist() == list(range(span.start, span.stop))
            assert path.rows[0] == span.shift
        # Between the edits, which are 30 and 59 tokens after its start, the passage goes along the key.
        rows = path.rows[path.positions >= 545][:20]
        assert (np.diff(rows) % 128 == 1).all()
        assert (rows[0] - 31 - (545 - 510)) % 128 == 0
    assert np.median(errors) <= 20
    assert max(errors) <= 120


@pytest.mark.parametrize("scheme", LOCAL)
def test_a_whole_passage_is_where_brute_force_finds_it(scheme):
    """Without an edit the best segment of all is the span: every start, stop and row is tried."""
    watermark = Watermark.create(
        scheme, vocab_size=V, key_length=48, gap=400.0, key=Key(b"\6" * 32)
    )
    rng = np.random.default_rng(6)
    passage = marked(watermark, 30, 9, seed=3)
    text = np.concatenate([rng.integers(V, size=8), passage, rng.integers(V, size=8)])  # < n
    detector = Detector(watermark, backend="cpu")
    packed = detector.engine.pack([text])
    numbers = detector.costs.numbers(packed.distinct, detector.engine.backend)
    level = packed.scoring.levels[numbers.matrix[numbers.source]][packed.texts.inverse]
    scores = -packed.scoring.costs[packed.bins[:, None], level].astype(float)
    total, start, stop, row = naive.best_segment(scores.tolist())
    (span,) = locate(detector, text, seed=1)
    assert span.statistic == -total / 32
    # Its ends may differ by tokens that add up to nothing.
    assert (span.shift - span.start - (row - start)) % 48 == 0
    rows = (span.shift + np.arange(span.stop - span.start)) % 48
    assert scores[np.arange(span.start, span.stop), rows].sum() == total
    assert abs(span.start - start) + abs(span.stop - stop) <= 8


@pytest.mark.parametrize("scheme", LOCAL)
def test_the_best_span_has_the_p_of_the_whole_text(scheme):
    rng = np.random.default_rng(7)
    for detector in watermarks(scheme, 5, 20, salt=3):
        text = rng.integers(V, size=30)
        plan = Plan(199, None)
        (one,) = detector.detect([text], resamples=199, stop_after=None, seed=4)
        spans = locate(detector, text, level=1, resamples=199, seed=4)
        best = min(spans, key=lambda span: span.statistic)
        assert best.p_value == min(1, one.p_value + plan.epsilon)
        assert best.statistic == one.statistic
        assert all(s.stop <= t.start for s, t in pairwise(spans))


def test_a_proven_span_needs_no_resamples():
    watermark = Watermark.create("exp", vocab_size=V, key_length=64, key=Key(b"\7" * 32))
    passage = marked(watermark, 60, 3)
    text = np.concatenate([np.random.default_rng(8).integers(V, size=500), passage])
    detector = Detector(watermark, backend="cpu")
    (span,) = locate(detector, text, level=1e-8)
    assert span.method == "bound"
    local = Detector(watermark, scheme="exp-local", backend="cpu")
    alone = local.engine.pack([text[span.start : span.stop]])
    # The m of the bound is that of the whole text.
    bound = log_segment_bound(local.engine, local.costs, alone, np.array([len(text)]))
    assert span.p_value == pytest.approx(math.exp(bound[0]), rel=1e-12)


def test_a_strong_passage_gets_a_proven_p_in_detection():
    """A short passage in a long text: no e-value over the whole text proves it, the best segment does."""
    watermark = Watermark.create("exp-local", vocab_size=V, key_length=64, key=Key(b"\x08" * 32))
    passage = marked(watermark, 60, 3)
    text = np.concatenate([np.random.default_rng(8).integers(V, size=900), passage])
    (found,) = Detector(watermark, backend="cpu").detect([text], seed=1)
    assert found.method == "bound"
    assert found.p_value < 1e-6


def test_characters_of_spans():
    watermark = Watermark.create("exp", vocab_size=V, key_length=64, key=Key(b"\x09" * 32))
    passage = marked(watermark, 50, 3)
    tokens = np.concatenate([np.random.default_rng(9).integers(V, size=80), passage])
    text = " ".join(f"w{t}" for t in tokens)
    (span,) = locate(Detector(watermark, tokenizer=words(V)), text, seed=1)
    inside = [f"w{t}" for t in tokens[span.start : span.stop]]
    assert text[span.char_start : span.char_stop].split() == inside
    assert json.loads(json.dumps(span.to_dict()))["char_start"] == span.char_start
    (plain,) = locate(Detector(watermark), tokens, seed=1)
    assert (plain.start, plain.stop) == (span.start, span.stop)
    assert plain.char_start is None


def test_what_it_refuses():
    detector = Detector(Watermark.create("exp", vocab_size=V))
    for options, message in (
        ({"level": 2}, "level is 2, but must be a number from 0 to 1"),
        ({"resamples": 0}, "resamples is 0, but must be a whole number"),
        ({"seed": "x"}, "seed is 'x', but must be a whole number"),
    ):
        with pytest.raises(WatermarkError, match=message):
            locate(detector, [1, 2, 3], **options)
    with pytest.raises(WatermarkError, match="the text has no tokens"):
        locate(detector, [])
    with pytest.raises(WatermarkError, match="outside the vocabulary"):
        locate(detector, [V])
    with pytest.raises(WatermarkError, match="give the Detector a tokenizer"):
        locate(detector, "some text")
    assert locate(detector, [5], level=0) == []
