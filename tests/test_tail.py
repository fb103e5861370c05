"""The proven bound of p: above the null, complete, and absent where nothing is proven."""

import itertools
import math

import numpy as np
import pytest
from matrices import PAPER
from scans import V, marked, ordinary, watermark
from scipy import special

from wmcore import Detector, Watermark, tail
from wmcore.kernels import load
from wmcore.kernels.constants import NOTHING
from wmcore.kernels.problem import CostTable, Resamples, pack
from wmcore.schemes import EXP_COST, ITS_COST
from wmcore.significance import seed_key

N = 65536


def bound_of(mark, statistic, length, etas=None):
    """log G of one text. etas: of its tokens, in cost units."""
    found = tail.log_bound(
        mark.statistic,
        mark.key_length,
        np.array([statistic]),
        np.array([length]),
        None if etas is None else [np.asarray(etas)],
    )
    return float(found[0])


def chernoff(cost, k, x):
    """The bound without gaps before the costs' laws were looked at: the least over t of k log M(t) + t x'."""
    return float(np.min(k * cost.log_mgf(cost.tilts) + cost.tilts * (x + 2 * k / cost.scale)))


@pytest.mark.parametrize("scheme", PAPER)
def test_bound_is_above_the_null(scheme):
    """G(x) >= P(phi <= x) at every x that 20,000 resamples show, to 4 standard errors."""
    mark = watermark(scheme, key_length=24)
    rng = np.random.default_rng(0)
    for length in (3, 16):
        text = ordinary(rng, length)
        detector = Detector(mark, threads=1)
        engine = detector.engine
        phi = np.sort(engine.null(engine.pack([text]), 0, Resamples(seed_key(5), 0, 20_000)))
        for rank in (1, 5, 50, 500, 5000):
            x = float(phi[rank - 1])
            share = np.searchsorted(phi, x, side="right") / len(phi)
            error = 4 * math.sqrt(share / len(phi))
            assert math.exp(bound_of(mark, x, length)) >= share - error


@pytest.mark.parametrize("scheme", ["its", "its-edit"])
@pytest.mark.parametrize("block_length", [None, pytest.param(5, marks=pytest.mark.slow)])
def test_bound_of_known_etas_is_above_the_null(scheme, block_length):
    """P(G <= a) <= a at 1e-1 .. 1e-3 over 20,000 rows of uniforms, one permutation: to 4 standard errors."""
    mark = watermark(scheme, key_length=20, block_length=block_length)
    rng = np.random.default_rng(1)
    eta = rng.integers(0, N + 1, size=9)
    eta[:4] = 0, 1, 900, N
    text = rng.integers(0, 9, size=12)
    packed = pack([text], block_length)
    problem = mark.problem()
    backend = load("cpu")
    keys, anything = 20_000, np.array([NOTHING], np.int32)
    phi = np.empty(keys)
    for key in range(keys):
        u = rng.integers(0, N, size=20)
        costs = np.abs(u[None, :] - eta[packed.distinct][:, None]).astype(np.int32)
        costs = np.concatenate([costs, costs[:, :16]], axis=1)
        table = CostTable(costs, np.arange(len(costs)))
        phi[key] = backend.observe(problem, packed, table, anything, 1).value[0] / N
    logs = tail.log_bound(mark.statistic, 20, phi, np.full(keys, 12), [eta[text]] * keys)
    for a in (1e-1, 1e-2, 1e-3):
        assert (logs <= math.log(a)).mean() <= a + 4 * math.sqrt(a / keys)
    if (scheme, block_length) == ("its", None):  # and small ones do occur
        assert (logs <= math.log(0.1)).mean() >= 1e-3


@pytest.mark.parametrize("k", [1, 2, 3])
def test_its_bound_is_above_the_exact_tail(k):
    """One window: G / n >= P(sum of abs(U - x) <= s) exactly, by convolution of the k laws."""
    mark = watermark("its", key_length=16)
    rng = np.random.default_rng(k)
    etas = rng.integers(0, N + 1, size=k)
    law = np.ones(1)
    for x in etas.tolist():
        one = np.bincount(np.abs(np.arange(N) - x), minlength=N + 1) / N
        size = len(law) + len(one)
        law = np.fft.irfft(np.fft.rfft(law, 4 * N) * np.fft.rfft(one, 4 * N), 4 * N)[:size]
    exact = np.cumsum(law)
    for s in (0, 1, 30, 1000, 5000, 20_000):
        bound = bound_of(mark, s / N, k, etas)
        assert bound >= min(0.0, math.log(16 * exact[s])) - 1e-6
        assert bound <= bound_of(mark, s / N, k) + 1e-9  # and no higher than without the etas


def test_its_law_is_that_of_the_integers():
    """M(t) of a bin is the largest of its x, and with x known this sum over all 65,536 numbers."""
    table, _ = tail._its_mgf()
    u = np.arange(N)
    for bin_, xs in [(0, (0, 40, 63)), (300, (19_200, 19_263)), (512, (32_768,)), (1024, (N,))]:
        for g in (0, 20, 47):
            t = ITS_COST.tilts[g]
            exact = [np.exp(-t * np.abs(u - x) / N).mean() for x in xs]
            assert table[bin_, g] == pytest.approx(max(exact), rel=1e-9)


@pytest.mark.parametrize("k", [1, 2, 5, 40])
def test_exp_bound_is_above_the_midpoints_tail(k):
    """Sums of k costs of random words, and for k = 1 every one of the last cells: P(cost <= -y) <= the bound."""
    rng = np.random.default_rng(k)
    u = (rng.integers(0, 2**32, size=(200_000, k)) + 0.5) / 2**32
    sums = np.sort(-np.rint(4096 * np.log1p(-u)).sum(axis=1) / 4096)
    for share in (0.5, 1e-1, 1e-2, 1e-3, 1e-4):
        y = sums[len(sums) - int(share * len(sums))]
        bound = math.exp(tail._log_gamma_tail(k, np.array([y + 0.6 * k / 4096]))[0])
        assert bound >= share - 4 * math.sqrt(share / len(sums))
    if k == 1:
        cells = np.arange(
            1, 5000
        )  # the last cells: P(-c >= cost of the j-th from the end) = j / 2**32
        y = -np.rint(4096 * np.log((cells - 0.5) / 2**32)) / 4096
        bound = tail._log_gamma_tail(1, y - 0.6 / 4096)
        assert (bound >= np.log(cells / 2**32)).all()
        assert (bound <= np.log(cells / 2**32) + math.log(4)).all()


def test_exp_bound_of_two_last_cells():
    """k = 2, exactly: P(sum >= y) by counting the pairs of cells, deep in the tail where midpoints matter most."""
    j = np.arange(1 << 16)
    cost = -np.log((j + 0.5) / 2**32)  # of the last cells, falling
    for y in (36.0, 40.0, 44.0, 45.5):
        # Pairs with both in these cells; a pair with one outside is no more than the Gamma tail beyond.
        partner = np.searchsorted(
            -cost, -(y - cost), side="right"
        )  # cells whose cost is large enough
        inside = partner[partner < len(j)].sum() / 2**64
        assert tail._log_gamma_tail(2, np.array([y]))[0] >= math.log(inside)


@pytest.mark.parametrize("k", [7, 100, 3000])
def test_gamma_tail_is_scipy_s(k):
    y = np.array([0.5, 1.0, 1.3, 1.8]) * k
    found = tail._log_gamma_tail(k, y + k * tail._CELL)
    exact = np.log(special.gammaincc(k, y))
    assert (found >= exact - 1e-12).all()
    assert found == pytest.approx(exact, rel=1e-3, abs=0.02 + k * 3e-4)


@pytest.mark.parametrize(("k", "per_token"), [(20, 3.0), (100, 1.8), (100, 3.0), (256, 1.6)])
def test_exp_gains_over_chernoff(k, per_token):
    """A decade or more of p: measured 1.25, 1.30, 1.25 and 1.37."""
    mark = watermark("exp", key_length=256)
    windows = math.log(256)
    old = chernoff(EXP_COST, k, -per_token * k) + windows
    gain = (old - bound_of(mark, -per_token * k, k)) / math.log(10)
    assert 1.2 <= gain <= 1.7


def test_its_gains_over_the_middle_eta():
    """Text of 100 tokens with a mean cost of 0.12: measured 4.8 decades without gaps, 3.4 with gaps of 0.4."""
    rng = np.random.default_rng(2)
    etas = rng.integers(0, N, size=100)
    for scheme, least in [("its", 4.0), ("its-edit", 3.0)]:
        mark = watermark(scheme, key_length=256)
        gain = (bound_of(mark, 12.0, 100) - bound_of(mark, 12.0, 100, etas)) / math.log(10)
        assert gain >= least


def test_never_above_the_old_bound():
    """At no length and no fit, but for what float64 loses."""
    rng = np.random.default_rng(3)
    for scheme, cost in [("exp", EXP_COST), ("its", ITS_COST)]:
        mark = watermark(scheme, key_length=256)
        for k in (1, 3, 30, 256):
            for share in (0.01, 0.1, 0.3, 0.8, 1.2):
                x = -k / share if scheme == "exp" else share * k / 3
                old = min(0.0, chernoff(cost, k, x) + math.log(256))
                etas = None if scheme == "exp" else rng.integers(0, N + 1, size=k)
                assert bound_of(mark, x, k, etas) <= old + 1e-8


@pytest.mark.parametrize(("cost", "gap"), [(EXP_COST, 0.0), (EXP_COST, 0.3), (ITS_COST, 0.4)])
def test_sum_over_alignments_is_complete(cost, gap):
    """S(t) is the sum over every set of cells that an alignment can match, listed by brute force."""
    k = 4
    log_sums = tail._log_sum_with_gaps(cost, k, gap, cost.log_mgf(cost.tilts))
    t = float(cost.tilts[5])
    m = (2 / t) * (1 - math.exp(-t / 2)) if cost is ITS_COST else 1 / (1 - t)
    total = 0.0
    for r in range(k + 1):
        for _ in itertools.product(
            itertools.combinations(range(k), r), itertools.combinations(range(k), r)
        ):
            total += m**r * math.exp(-2 * t * gap * (k - r))
    assert log_sums[5] == pytest.approx(math.log(total), rel=1e-12)


def test_sum_with_etas_is_above_that_of_symmetric_sums():
    """The sum over sets of tokens of the products of their M(t), listed by brute force; the largest block's."""
    k, gap = 4, 0.3
    eta = np.array([0, 200, 9_000, 30_000, 33_000, 64_000])
    log_m = tail._log_mean(ITS_COST, k, eta)
    log_sums = tail._log_sum_with_gaps(ITS_COST, k, gap, log_m)
    for g in (0, 20, 40):
        t = float(ITS_COST.tilts[g])
        u = np.arange(N)
        m = [np.exp(-t * np.abs(u - x) / N).mean() for x in eta.tolist()]
        for first in range(3):
            total = 0.0
            for r in range(k + 1):
                sets = itertools.combinations(m[first : first + k], r)
                symmetric = sum(math.prod(some) for some in sets)
                total += math.comb(k, r) * symmetric * math.exp(-2 * t * gap * (k - r))
            assert log_sums[g] >= math.log(total) - 1e-9


@pytest.mark.parametrize("scheme", ["exp-edit", "its-edit"])
def test_no_sum_with_gaps_is_passed_over(scheme):
    """What is not summed, because a lower bound of the sum decides nothing, would not have decided anything."""
    mark = watermark(scheme, key_length=256)
    cost, rng = mark.statistic.scheme.cost, np.random.default_rng(7)
    gap = round(mark.gap * cost.scale) / cost.scale
    decided = 0
    for k in (1, 2, 9, 60, 200):
        eta = rng.integers(0, N + 1, size=k) if scheme == "its-edit" else None
        log_sums = tail._log_sum_with_gaps(cost, k, gap, tail._log_mean(cost, k, eta))
        rounded = 0.0 if scheme == "its-edit" else 0.6 * k / cost.scale
        for x in (np.linspace(0, 0.3, 25) if scheme == "its-edit" else -np.linspace(1, 12, 25)) * k:
            full = np.min(log_sums + cost.tilts * (x + rounded)) + math.log(256)
            assert bound_of(mark, x, k, eta) == pytest.approx(min(0.0, full), abs=1e-8)
            decided += full < 0
    assert 20 <= decided <= 100


def test_no_bound_where_none_is_proven():
    assert bound_of(watermark(key_length=64), -1e6, 100) == 0.0  # a row would be met twice
    demo = Watermark.published("exp", seed=1, generator="mersenne", vocab_size=V)
    (found,) = Detector(demo).detect([marked(demo, np.random.default_rng(0), 60, 1.0)])
    assert found.method == "permutation"


@pytest.mark.parametrize("scheme", PAPER)
def test_many_texts_are_bounded_as_one_by_one(scheme):
    mark = watermark(scheme, key_length=40)
    lengths = np.array([3, 40, 41, 17, 17])
    values = np.array([-9.0, -150.0, -150.0, -40.0, -1.0])
    etas = None
    if mark.sampler == "its":
        values = np.array([0.01, 1.0, 1.0, 0.2, 5.0])
        rng = np.random.default_rng(4)
        etas = [rng.integers(0, N + 1, size=m) for m in lengths.tolist()]
    found = tail.log_bound(mark.statistic, 40, values, lengths, etas)
    each = [None] * 5 if etas is None else etas
    alone = [bound_of(mark, x, m, e) for x, m, e in zip(values, lengths, each, strict=True)]
    assert found.tolist() == alone
    assert found[2] == 0.0
    assert found[1] < found[3] <= 0.0 == found[4]
    assert found[1] < -5
