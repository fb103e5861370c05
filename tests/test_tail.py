"""The proven bound of p: above the null, complete, and absent where nothing is proven."""

import itertools
import math

import numpy as np
import pytest
from scans import V, marked, ordinary, watermark

from wmcore import SCHEMES, Detector, Watermark, tail
from wmcore.kernels.problem import Resamples
from wmcore.schemes import EXP_COST, ITS_COST
from wmcore.significance import seed_key


def bound_of(mark, statistic, length):
    """log G of one text."""
    found = tail.log_bound(
        mark.statistic, mark.key_length, np.array([statistic]), np.array([length])
    )
    return float(found[0])


@pytest.mark.parametrize("scheme", SCHEMES)
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


@pytest.mark.parametrize(("cost", "gap"), [(EXP_COST, 0.0), (EXP_COST, 0.3), (ITS_COST, 0.4)])
def test_sum_over_alignments_is_complete(cost, gap):
    """S(t) is the sum over every set of cells that an alignment can match, listed by brute force."""
    k = 4
    log_sums = tail._log_sums_with_gaps(cost, k, gap)
    t = float(cost.tilts[5])
    m = (2 / t) * (1 - math.exp(-t / 2)) if cost is ITS_COST else 1 / (1 - t)
    total = 0.0
    for r in range(k + 1):
        for _ in itertools.product(
            itertools.combinations(range(k), r), itertools.combinations(range(k), r)
        ):
            total += m**r * math.exp(-2 * t * gap * (k - r))
    assert log_sums[5] == pytest.approx(math.log(total), rel=1e-12)


def test_no_bound_where_none_is_proven():
    assert bound_of(watermark(key_length=64), -1e6, 100) == 0.0  # a row would be met twice
    demo = Watermark.published("exp", seed=1, generator="mersenne", vocab_size=V)
    (found,) = Detector(demo).detect([marked(demo, np.random.default_rng(0), 60, 1.0)])
    assert found.method == "permutation"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_many_texts_are_bounded_as_one_by_one(scheme):
    mark = watermark(scheme, key_length=40)
    lengths = np.array([3, 40, 41, 17, 17])
    values = np.array([-9.0, -150.0, -150.0, -40.0, -1.0])
    if mark.sampler == "its":
        values = np.array([0.01, 1.0, 1.0, 0.2, 5.0])
    found = tail.log_bound(mark.statistic, 40, values, lengths)
    alone = [bound_of(mark, x, m) for x, m in zip(values, lengths, strict=True)]
    assert found.tolist() == alone
    assert found[2] == 0.0
    assert found[1] < found[3] <= 0.0 == found[4]
    assert found[1] < -5
