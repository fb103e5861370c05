"""Free and local alignments against their twin: every resample, the key itself, its place and its path."""

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import SEED_KEY

from wmcore import Detector, Watermark
from wmcore.kernels.constants import LEVELS
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
from wmcore.scores import SCORES, levels, named_scores

V = 60
SCORED = [s for s in ("exp-free", "exp-local", "its-free", "its-local")]
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


@settings(max_examples=60, deadline=None)
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
