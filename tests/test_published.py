"""Statistics and draws from explicit numbers against their brute-force twins."""

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmcore import published
from wmcore.bindings import _published
from wmcore.errors import WatermarkError
from wmcore.kernels.cpu.published import edit_pair, exp_pick, its_pick
from wmcore.schemes import EXP_COST, ITS_COST


def case(seed, rows=3, size=40):
    """Probabilities with zeros and a wide range, an order for each row, uniforms."""
    rng = np.random.default_rng(seed)
    probs = np.exp(rng.normal(0, rng.choice([0.1, 3, 20]), (rows, size)))
    probs[rng.random(probs.shape) < 0.2] = 0
    probs[:, 0] += 1e-6
    probs /= probs.sum(axis=1, keepdims=True)
    pi = np.array([rng.permutation(size) for _ in range(rows)])
    return probs.astype(np.float32), pi, rng.random((rows, size), np.float32)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_draws_equal_the_definition(seed):
    probs, pi, xi = case(seed)
    out = np.empty(len(probs), np.int64)
    exp_pick(probs, pi, xi, out)
    assert out.tolist() == [
        naive.published_exp_place(*map(np.ndarray.tolist, row))
        for row in zip(probs, pi, xi, strict=True)
    ]
    u = xi[:, 0].copy()
    its_pick(probs, pi, u, out)
    for b, token in enumerate(out):
        wanted = naive.published_its_token(probs[b].tolist(), pi[b].tolist(), float(u[b]))
        if token != wanted:  # the running sum is rounded to float32
            ranks = {v: r for r, v in enumerate(pi[b].tolist())}
            total = probs[b, pi[b]].astype(np.float64).cumsum()[min(ranks[token], ranks[wanted])]
            assert abs(total - u[b]) < 1e-7


def test_rows_without_a_distribution_are_an_error():
    probs, pi, xi = case(1)
    for bad in (0.0, np.nan):
        broken = probs.copy()
        broken[1] = bad
        with pytest.raises(WatermarkError, match="a row sums to 0 or holds NaN"):
            _published.exp_places(broken, pi, xi)
        with pytest.raises(WatermarkError, match="a row sums to 0 or holds NaN"):
            _published.its_tokens(broken, pi, xi[:, 0])
    with pytest.raises(WatermarkError, match="pi has a token outside the 40 of probs"):
        _published.exp_places(probs, pi + 1, xi)
    with pytest.raises(WatermarkError, match="probs has 3 rows, but pi 2"):
        _published.exp_places(probs, pi[:2], xi)
    one = np.ones((3, 40), np.float32)
    assert (_published.exp_places(probs, pi, one) >= 0).all()
    high = _published.its_tokens(probs * np.float32(0.9), pi, one[:, 0])
    assert (probs[np.arange(3), high] > 0).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (9, 1), (12, 15)])
@pytest.mark.parametrize("gamma", [0.0, 0.4, 2.0])
def test_pair_equals_the_definition(shape, gamma):
    costs = np.random.default_rng(3).normal(0, 1, shape).astype(np.float32)
    row = np.empty(shape[1] + 1, np.float32)
    wanted = naive.edit_cost(costs.tolist(), gamma)
    assert edit_pair(costs, np.float32(gamma), row) == pytest.approx(wanted, abs=1e-5)
    assert _published.levenshtein(costs, gamma) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("cost", [EXP_COST, ITS_COST], ids=lambda cost: cost.name)
@pytest.mark.parametrize("gamma", [None, 0.0, 0.4, 1e4])
@pytest.mark.parametrize("k", [1, 4, 11])
def test_alignments_equal_the_definition(cost, gamma, k):
    """1e4 is so large that no gap is ever used."""
    rng = np.random.default_rng(5)
    n, inverse = 9, rng.integers(0, 6, 11)
    if cost is ITS_COST:
        costs, scale = published.its_costs(rng.random(6), rng.random(n)), 2**16
    else:
        costs, scale = published.exp_costs(rng.random((6, n), np.float32)), 2**12
    gap = None if gamma is None else round(gamma * scale)
    table = np.array(naive.all_alignments(costs.tolist(), inverse.tolist(), k, gap)) / scale
    both = _published.Alignments(costs, inverse, k, cost=cost, gamma=gamma)
    assert both.all() == pytest.approx(table.astype(np.float32))
    value, block, tau = naive.statistic(costs.tolist(), inverse.tolist(), k, gap)
    assert both.least() == (value / scale, block, tau)


def test_costs_are_those_of_published_keys():
    from wmcore.kernels import resolve
    from wmcore.watermark import Watermark

    tokens = np.array([3, 0, 99])
    for scheme in ("exp", "its"):
        mark = Watermark.published(scheme, seed=5, generator="torch", vocab_size=100, key_length=20)
        costs = resolve("cpu").gather(
            mark.key.costs(mark.problem()).table(tokens, resolve("cpu"), 1), 20
        )
        if scheme == "exp":
            ours = published.exp_costs(mark.key.exp_table(20, 100).T[tokens])
        else:
            rank = np.argsort(mark.key.its_order(100))[tokens]
            ours = published.its_costs(rank / 100, mark.key.its_uniforms(20, 100))
        assert (costs == ours).all()
    assert published.exp_costs(np.float32(1)) == published.exp_costs(published.BELOW_ONE)


def test_what_sums_cannot_hold_is_named():
    costs = np.zeros((1, 4), np.int32)
    for k, gamma, message in [
        (3, 0.0, "block_length 3 exceeds"),
        (2, -1.0, "gamma -1.0 is outside"),
    ]:
        with pytest.raises(WatermarkError, match=message):
            _published.Alignments(costs, np.zeros(2, np.int64), k, cost=EXP_COST, gamma=gamma)
