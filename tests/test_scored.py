"""Free and local alignments against their twin: every resample, the key itself, its place and its path."""

import math
import re

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import SCORED, SEED_KEY

from wmcore import Detector, Watermark, WatermarkError, attacks
from wmcore.calibration import Calibration
from wmcore.kernels.constants import LEVELS
from wmcore.kernels.cpu import evalue
from wmcore.kernels.problem import (
    EXP,
    FREE,
    ITS,
    LOCAL,
    NOTHING,
    CostTable,
    Problem,
    Resamples,
    ScoredTexts,
    Scoring,
    pack,
)
from wmcore.scores import SCORES, Scores, ScoreTable, levels, named_scores

V = 60
NUMBERS = {EXP: "exp", ITS: "its"}


@st.composite
def cases(draw):
    """(problem, scored texts, per text: tokens as numbers of distinct ones, bins)."""
    kind = draw(st.sampled_from([EXP, ITS]))
    n = draw(st.sampled_from([1, 2, 3, 16, 17, 33]))
    gamma = draw(st.sampled_from([0, 1, 58, 700, 16_000]))
    problem = Problem(kind, draw(st.sampled_from([FREE, LOCAL])), n, gamma, V, 0)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=3))
    arrays = [rng.integers(draw(st.sampled_from([1, 3, V])), size=m) for m in lengths]
    bins = draw(st.sampled_from([1, 3]))
    large = draw(st.sampled_from([100, 9_000]))
    costs = rng.integers(-large, large, size=(bins, LEVELS)).astype(np.int16)
    scoring = Scoring(levels(NUMBERS[kind]), costs, np.exp(-costs / 32.0))
    bonus = rng.integers(0, 500, len(arrays)).astype(np.int32)
    texts = pack(arrays, None)
    of_tokens = rng.integers(bins, size=len(texts.inverse)).astype(np.uint8)
    return problem, ScoredTexts(texts, of_tokens, bonus, scoring)


def part(scored, a):
    """(numbers of distinct tokens, bins) of text a."""
    first, last = scored.texts.offsets[a : a + 2]
    return scored.texts.inverse[first:last].tolist(), scored.bins[first:last].tolist()


def naive_value(problem, scored, a, number):
    """The statistic of text a; number(i, j) is that of distinct token i at row j."""
    inverse, bins = part(scored, a)
    table, level = scored.scoring.costs.tolist(), scored.scoring.levels.tolist()
    costs = [
        [table[b][level[number(i, j)]] for j in range(problem.n)]
        for i, b in zip(inverse, bins, strict=True)
    ]
    return naive.scored_statistic(
        costs, problem.gamma, int(scored.bonus[a]), problem.alignment == LOCAL
    )


def resampled_number(problem, t):
    """number(i, j) of resample t."""
    if problem.cost == ITS:
        return lambda i, j: naive.null_uniform(SEED_KEY, t, j, problem.n)
    return lambda i, j: naive.null_word(SEED_KEY, t, i, j, problem.n) >> 16


def key_numbers(problem, scored, seed):
    """A key's numbers, as `CostTable`, and number(a) of text a."""
    count = len(scored.texts.distinct) if problem.cost == EXP else 1
    matrix = np.random.default_rng(seed).integers(0, 65536, (count, problem.n)).astype(np.uint16)
    source = np.arange(len(scored.texts.distinct)) % count
    start = scored.texts.distinct_offsets

    def of_text(a):
        return lambda i, j: int(matrix[source[start[a] + i], j])

    return CostTable(matrix, source), of_text


@settings(max_examples=25, deadline=None)
@given(case=cases(), first=st.sampled_from([0, 32, 64]))
def test_resamples_equal_the_twin(backend, case, first):
    problem, scored = case
    for a in range(scored.size):
        resamples = Resamples(SEED_KEY, first, first + 33)
        found = backend.null_scored(problem, scored, a, resamples, 1)
        assert len(found) == 33
        for t in (0, 1, 15, 31, 32):
            number = resampled_number(problem, first + t)
            assert found[t] == naive_value(problem, scored, a, number)


@settings(max_examples=60, deadline=None)
@given(case=cases(), seed=st.integers(0, 99), threads=st.sampled_from([1, 3]))
def test_hits_are_those_of_the_statistics(backend, case, seed, threads):
    problem, scored = case
    resamples = Resamples(SEED_KEY, 0, 70)
    null = np.stack(
        [backend.null_scored(problem, scored, a, resamples, 1) for a in range(scored.size)]
    )
    rng = np.random.default_rng(seed)
    value = null[np.arange(scored.size), rng.integers(70, size=scored.size)].astype(np.int32)
    limit = rng.choice([0, 1, 5, 70], size=scored.size)
    hits, used = backend.tally_scored(problem, scored, value, limit, resamples, threads)
    for a in range(scored.size):
        places = np.flatnonzero(null[a] <= value[a])
        stopped = 0 < limit[a] <= len(places)
        assert hits[a] == min(limit[a], len(places))
        assert used[a] == (0 if not limit[a] else places[limit[a] - 1] + 1 if stopped else 70)


@settings(max_examples=100, deadline=None)
@given(case=cases(), seed=st.integers(0, 99))
def test_the_key_equals_the_twin(backend, case, seed):
    problem, scored = case
    costs, number = key_numbers(problem, scored, seed)
    best = np.full(scored.size, NOTHING, np.int32)
    fits = backend.observe_scored(problem, scored, costs, best, 2)
    for a in range(scored.size):
        assert fits.value[a] == naive_value(problem, scored, a, number(a))
    again = backend.observe_scored(problem, scored, costs, fits.value - 1, 1)
    assert (again.block == -1).all()


@settings(max_examples=15, deadline=None)
@given(case=cases(), seed=st.integers(0, 99))
def test_prefixes_equal_the_texts_cut_there(backend, case, seed):
    problem, scored = case
    scored = scored.take(np.array([0]))
    costs, number = key_numbers(problem, scored, seed)
    m = int(scored.lengths[0])
    bonus = np.arange(m, dtype=np.int32) * 7
    found = backend.observe_prefixes_scored(problem, scored, bonus, costs)
    null = backend.null_prefixes_scored(problem, scored, bonus, Resamples(SEED_KEY, 0, 33), 2)
    assert null.shape == (33, m)
    inverse = scored.texts.inverse
    for i in range(m):
        texts = scored.texts._replace(inverse=inverse[: i + 1], offsets=np.array([0, i + 1]))
        part = scored._replace(texts=texts, bonus=bonus[i : i + 1])
        assert found[i] == naive_value(problem, part, 0, number(0))
        for t in (0, 32):
            assert null[t, i] == naive_value(problem, part, 0, resampled_number(problem, t))


@settings(max_examples=100, deadline=None)
@given(case=cases(), seed=st.integers(0, 99))
def test_the_path_costs_what_the_statistic_says(backend, case, seed):
    problem, scored = case
    scored = scored.take(np.array([0]))
    costs, number = key_numbers(problem, scored, seed)
    (value,) = backend.observe_scored(
        problem, scored, costs, np.full(1, NOTHING, np.int32), 1
    ).value
    rows, first, stop = backend.path_scored(problem, scored, costs)
    inverse, bins = part(scored, 0)
    assert 0 <= first <= stop <= len(inverse)
    assert (problem.alignment == LOCAL) or (first, stop) == (0, len(inverse))
    table, level, number = scored.scoring.costs, scored.scoring.levels, number(0)
    total, last = 0, None
    for i in range(first, stop):
        if rows[i] < 0:
            total += problem.gamma
            continue
        if last is not None:  # row gaps: the shortest way round
            total += problem.gamma * ((rows[i] - last - 1) % problem.n)
        total += int(table[bins[i], level[number(inverse[i], rows[i])]])
        last = rows[i]
    without = (rows[first:stop] >= 0).all() and (
        np.diff(rows[first:stop]) % problem.n == 1 % problem.n
    ).all()
    bonus = int(scored.bonus[0]) if problem.alignment == FREE and without else 0
    saturated = np.abs(table.astype(int)).max() * len(inverse) + problem.gamma > 30_000
    if not saturated:
        assert value in (total, total - bonus)


@pytest.mark.parametrize("scheme", SCORED)
def test_scores_are_densities(scheme):
    sampler = scheme[:3]
    for name in SCORES if sampler == "exp" else ["mixture"]:
        table = named_scores(sampler, name).table
        scoring = table.scoring()
        number = np.arange(65536)
        for costs, factors in zip(scoring.costs, scoring.factors, strict=True):
            assert 1 - 1e-9 < factors[scoring.levels[number]].mean() <= 1
            score = -costs[scoring.levels[number]] / 32.0
            assert np.abs(np.exp(score) / factors[scoring.levels[number]] - 1).max() < 0.017
            assert score.mean() < 0
    assert (np.diff(levels(sampler).astype(int)) >= 0).all()


@pytest.mark.parametrize("scheme", SCORED)
def test_levels_of_a_key_have_the_law_of_the_resamples(scheme):
    """The upper halves of a key's words: each half is as likely as any other, so levels are those of 65,536 numbers."""
    watermark = Watermark.create(scheme, vocab_size=V, key_length=4096)
    detector = Detector(watermark, backend="cpu")
    table = detector.costs.numbers(np.arange(V), detector.engine.backend)
    level = levels(scheme[:3])
    count = np.bincount(level[table.matrix].reshape(-1), minlength=LEVELS)
    chance = np.bincount(level, minlength=LEVELS) / 65536
    total = count.sum()
    often = chance * total > 20
    z = (count - chance * total)[often] / np.sqrt(total * chance * (1 - chance))[often]
    assert np.abs(z).max() < 5


def marked(watermark, length, shift, seed=0):
    """A text whose tokens are, of eight random ones each, the one that the key likes best."""
    rng = np.random.default_rng(seed)
    detector = Detector(watermark, scheme=watermark.sampler, backend="cpu")
    costs = detector.engine.matrix(detector.costs, np.arange(watermark.vocab_size))
    eight = rng.integers(watermark.vocab_size, size=(length, 8))
    rows = (shift + np.arange(length)) % watermark.key_length
    return eight[np.arange(length), costs[eight, rows[:, None]].argmin(axis=1)]


@pytest.mark.parametrize("scheme", SCORED)
def test_a_marked_text_is_found_where_it_is(scheme):
    watermark = Watermark.create(scheme, vocab_size=500, key_length=64)
    rng = np.random.default_rng(1)
    text = marked(watermark, 60, 50)
    local = scheme.endswith("local")
    if local:
        text = np.concatenate([rng.integers(500, size=40), text, rng.integers(500, size=30)])
    cut = np.delete(text, [70 if local else 30])
    detector = Detector(watermark, backend="cpu")
    for tokens, gaps in ((text, 0), (cut, 1)):
        (found,) = detector.detect([tokens], alignment=True, seed=1)
        assert found.p_value < 1e-3
        assert found.statistic < -10
        start = 40 if local else 0
        assert abs(found.block - start) <= (10 if local else 0)
        assert (found.shift - 50 - (found.block - start)) % 64 == 0
        rows = found.alignment.rows
        assert found.alignment.positions[0] == found.block
        along = np.diff(rows[rows >= 0]) % 64
        assert (along != 1).sum() == gaps


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("scheme", ["exp-free", "exp-local"])
def test_p_values_of_every_score_are_uniform(scheme, score):
    """1,000 unmarked texts, a key each: at every level within the bound of Dvoretzky, Kiefer, Wolfowitz and Massart."""
    rng = np.random.default_rng(5)
    count, p = 1000, []
    for _ in range(count):
        watermark = Watermark.create(scheme, vocab_size=V, key_length=24)
        detector = Detector(watermark, score=score, backend="cpu", threads=1)
        text = rng.integers(rng.integers(5, V), size=rng.integers(5, 25))
        p.append(detector.detect([text], resamples=99, stop_after=None)[0].p_value)
    grid = np.arange(1, 101) / 100
    share = np.searchsorted(np.sort(p), grid, side="right") / count
    assert np.abs(share - grid).max() <= math.sqrt(math.log(2 / 1e-6) / (2 * count))


def test_what_scores_refuse():
    watermark = Watermark.create("exp", vocab_size=V)
    with pytest.raises(
        WatermarkError, match="score 'nonsense' is not known for exp: use one of log,"
    ):
        Detector(watermark, scheme="exp-free", score="nonsense")
    with pytest.raises(WatermarkError, match="scheme 'exp' adds up the token cost itself"):
        Detector(watermark, scheme="exp", score="log")
    assert Detector(watermark, score="mixture").statistic.scheme.name == "exp-free"
    with pytest.raises(
        WatermarkError, match="block_length is 5, but scheme 'exp-free' aligns whole"
    ):
        Detector(watermark, scheme="exp-free", block_length=5)
    with pytest.raises(WatermarkError, match="score 'log' is not known for its"):
        Detector(Watermark.create("its-free", vocab_size=V), score="log")
    blocks = Watermark.create("exp", vocab_size=V, block_length=5)
    assert Detector(blocks, scheme="exp-free").statistic.block_length is None


@settings(max_examples=15, deadline=None)
@given(case=cases(), seed=st.integers(0, 99))
def test_e_values_count_every_path(backend, case, seed):
    problem, scored = case
    scored = scored.take(np.array([0]))
    m = min(int(scored.lengths[0]), 4, problem.n)
    texts = scored.texts._replace(inverse=scored.texts.inverse[:m], offsets=np.array([0, m]))
    factors = np.random.default_rng(seed).uniform(0.1, 5, scored.scoring.costs.shape)
    scored = scored._replace(texts=texts, scoring=scored.scoring._replace(factors=factors))
    costs, number = key_numbers(problem, scored, seed)
    inverse, bins = part(scored, 0)
    factors, level = scored.scoring.factors, scored.scoring.levels
    f = [
        [float(factors[b, level[number(0)(i, j)]]) for j in range(problem.n)]
        for i, b in zip(inverse, bins, strict=True)
    ]
    prior = evalue.Prior()
    expected = naive.evalue(f, prior.jump, prior.insertion, prior.run, evalue.BLOCKS)
    (found,) = backend.log_evalues_scored(problem, scored, costs, 1)
    assert found == pytest.approx(math.log(expected), abs=1e-9)


@pytest.mark.parametrize("scheme", ["exp-free", "its-free"])
def test_one_over_e_is_a_p_value(scheme):
    """P(1/E <= a) <= a over 4,000 keys, to 4 standard errors; and E is not always small."""
    rng = np.random.default_rng(3)
    text = rng.integers(0, 12, size=20)
    logs = []
    for _ in range(4000):
        detector = Detector(Watermark.create(scheme, vocab_size=V, key_length=24), backend="cpu")
        logs.append(detector.engine.log_evalues(detector.engine.pack([text]), detector.costs)[0])
    logs = np.array(logs)
    for a in (1e-1, 1e-2, 1e-3):
        assert (logs >= -math.log(a)).mean() <= a + 4 * math.sqrt(a / len(logs))
    assert 0.5 <= np.minimum(np.exp(logs), 20).mean() <= 1 + 4 * 20 / math.sqrt(len(logs))


@pytest.mark.parametrize("scheme", SCORED)
def test_a_strong_mark_has_a_proven_p(scheme):
    watermark = Watermark.create(scheme, vocab_size=500, key_length=256)
    text = attacks.damage(marked(watermark, 120, 9), 0.1, vocab_size=500, seed=1)
    (found,) = Detector(watermark).detect([text])
    assert (found.method, found.p_value < 1e-7) == ("bound", True)
    other = Watermark.create(scheme, vocab_size=500, key_length=256)
    assert Detector(other).detect([text])[0].p_value > 1e-3


class Strange(Scores):
    """Scores whose bins are what `given` makes of the tokens."""

    name = "strange"
    table = ScoreTable("exp", np.ones((3, LEVELS)))

    def __init__(self, given):
        self.bins = given


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (lambda t: np.zeros(len(t) - 1, np.uint8), r"shape \(9,\)"),
        (lambda t: np.zeros(len(t)), "float64"),
        (lambda t: np.full(len(t), 3), "outside 0 .. 2"),
        (lambda t: np.full(len(t), -1), "outside 0 .. 2"),
        (lambda t: 1 / 0, "cannot read the text: .*division by zero"),
    ],
)
def test_bins_that_do_not_fit_are_that_texts_error(given, error):
    bad = np.arange(10)
    good = np.arange(20)
    scores = Strange(lambda t: given(t) if len(t) == 10 else np.ones(len(t), np.int64))
    detector = Detector(Watermark.create(vocab_size=V), score=scores, backend="cpu")
    first, second = detector.detect([bad, good], resamples=9)
    assert re.search(error, first.error)
    assert (second.error, second.length) == (None, 20)


def test_what_a_calibration_and_a_long_text_refuse():
    watermark = Watermark.create("its-free", vocab_size=V)
    with pytest.raises(WatermarkError, match="differs from token to token"):
        Calibration.fit(watermark, [20], 99)
    strange = Watermark.create(vocab_size=V).tested_as(scores=Strange(None))
    with pytest.raises(WatermarkError, match="'strange' of scheme 'exp-free' differs"):
        Calibration.fit(Watermark.create(vocab_size=V), [20], 99, statistic=strange)
    large = Detector(Watermark.create(vocab_size=50_000, key_length=2**18), backend="cpu")
    assert "the tables of 20,000 tokens at 262,144 key rows needs" in large.engine.error(20_000)
    assert large.engine.error(100) is None


def test_published_keys_keep_their_gap():
    published = Watermark.published("exp", seed=1, generator="torch", vocab_size=100)
    assert published.tested_as("exp-edit").gap == 0.0
    assert Watermark.create("exp", vocab_size=100).tested_as("exp-edit").gap == 3.0
