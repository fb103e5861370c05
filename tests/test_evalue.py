"""The e-value over edit paths: every path is counted, its mean is at most 1, and 1 / E is a p-value."""

import math

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmcore import Detector, Key, Watermark, attacks, tail
from wmcore.kernels import load
from wmcore.kernels.cpu import evalue
from wmcore.kernels.problem import EXP, PLAIN, CostTable, Problem, pack

PRIOR = evalue.Prior()


def log_e(costs, texts):
    """costs: int32 [V, n]; texts: token ids."""
    packed = pack([np.asarray(t) for t in texts], None)
    problem = Problem(EXP, PLAIN, costs.shape[1], 0, len(costs), len(costs) - 1)
    table = CostTable(costs, packed.distinct)
    everything = np.arange(len(texts))
    return load("cpu").log_evalues(problem, packed, table, everything, 2)


@settings(max_examples=60, deadline=None)
@given(n=st.sampled_from([1, 2, 5, 8, 9, 11]), m=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_every_path_is_counted(n, m, seed):
    m = min(m, n)
    rng = np.random.default_rng(seed)
    costs = -rng.integers(0, 60_000, size=(3, n)).astype(np.int32)
    text = rng.integers(0, 3, size=m)
    f = [
        [(1 - PRIOR.tilt) * math.exp(-PRIOR.tilt * (c + 1) / 4096) for c in costs[v].tolist()]
        for v in text
    ]
    expected = naive.evalue(f, PRIOR.jump, PRIOR.insertion, PRIOR.run, evalue.BLOCKS)
    assert log_e(costs, [text])[0] == pytest.approx(math.log(expected), abs=1e-12)


def test_long_texts_are_averaged_over_windows():
    rng = np.random.default_rng(0)
    costs = -rng.integers(0, 20_000, size=(9, 10)).astype(np.int32)
    text = rng.integers(0, 9, size=23)
    windows = [text[s : s + 10] for s in (0, 5, 10, 13)]
    expected = np.log(np.mean(np.exp(log_e(costs, windows))))
    assert log_e(costs, [text])[0] == pytest.approx(expected, abs=1e-12)


def test_factors_have_a_mean_of_at_most_one_and_never_round_up():
    """Over all 2**32 words f has mean <= 1: costs lie within 0.52 units of the logarithm, f is a unit short."""
    table = evalue.factors(0.4)
    assert (np.diff(table) > 0).all()
    rng = np.random.default_rng(1)
    u = (rng.integers(0, 2**32, size=100_000) + 0.5) / 2**32
    units = np.rint(4096 * np.log1p(-u)).astype(int)
    assert (table[-units] <= 0.6 * (1 - u) ** -0.4).all()
    # And not much below: half a unit and a unit of 1/4096 nat, tilted.
    assert (table[-units] >= 0.6 * (1 - u) ** -0.4 * math.exp(-0.4 * 1.5 / 4096)).all()


@pytest.mark.parametrize("repeats", [False, True])
def test_one_over_e_is_a_p_value(repeats):
    """P(1/E <= a) <= a at 1e-2, 1e-3 and 1e-4 over 20,000 keys, to 4 standard errors; E's mean is not far from 1."""
    rng = np.random.default_rng(2)
    text = rng.integers(0, 4 if repeats else 10**6, size=24)
    distinct = np.unique(text)
    texts = [np.searchsorted(distinct, text)]
    n, keys = 32, 20_000
    logs = np.empty(keys)
    for key in range(keys):
        u = rng.random((len(distinct), n))
        costs = np.rint(4096 * np.log1p(-u)).astype(np.int32)
        logs[key] = log_e(costs, texts)[0]
    for a in (1e-2, 1e-3, 1e-4):
        assert (logs >= -math.log(a)).mean() <= a + 4 * math.sqrt(a / keys)
    # The mean of min(E, 20): at most 1, and not small, since few E are large.
    capped = np.minimum(np.exp(logs), 20)
    assert 0.5 <= capped.mean() <= 1 + 4 * capped.std() / math.sqrt(keys)


def test_edited_text_has_a_proven_p():
    """Where the bound from the statistic proves nothing, the e-value does: tokens of two nats, a fifth edited."""
    rng = np.random.default_rng(5)
    mark = Watermark.create("exp-edit", vocab_size=2000, gap=0.0, key=Key(bytes(32)))
    detector = Detector(mark)
    costs = detector.engine.matrix(detector.costs, np.arange(2000))
    some = rng.integers(
        0, 2000, size=(100, 8)
    )  # each token the best of eight: like a model of 2 nats a token
    rows = (40 + np.arange(100)) % 256
    text = some[np.arange(100), costs[some, rows[:, None]].argmin(axis=1)]
    text = attacks.damage(text, 0.2, vocab_size=2000, seed=1)
    (found,) = detector.detect([text])
    statistic, length = np.array([found.statistic]), np.array([found.length])
    assert math.exp(tail.log_bound(mark.statistic, 256, statistic, length)[0]) > 1e-4
    assert found.method == "bound"
    assert found.p_value < 1e-8
    (other,) = Detector(Watermark.create("exp-edit", vocab_size=2000, key=Key(b"x" * 32))).detect(
        [text]
    )
    assert other.p_value > 1e-3
