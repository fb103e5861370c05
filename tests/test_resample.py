"""Resampled costs against their twin, and the int16 bounds of them."""

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import PAPER, SEED_KEY, VOCAB, make_problem, pair_costs, words_to_costs

from wmcore.kernels.cpu import resample
from wmcore.kernels.problem import COSTS


@pytest.mark.parametrize("n", [1, 5, 16, 17, 40, 300])
def test_exp_costs_equal_the_twin(n):
    problem = make_problem("exp", n)
    for pair in (0, 5, 2**20):
        found = pair_costs(problem, pair, 3)
        for half in range(2):
            columns = sorted({0, 1 % n, n // 2, n - 1})
            for i in range(3):
                for j in columns:
                    word = naive.null_word(SEED_KEY, 2 * pair + half, i, j, n)
                    assert abs(found[half, i, j] - 4096 * naive.exp_cost_nats(word)) <= 0.52
            assert (found[half, :, n : n + 16] == found[half, :, np.arange(16) % n].T).all()


@pytest.mark.parametrize("denominator", [VOCAB - 1, VOCAB])
@pytest.mark.parametrize("n", [1, 16, 17, 40, 300])
def test_its_costs_equal_the_twin(n, denominator):
    problem = make_problem("its", n, denominator=denominator)
    for pair in (0, 7):
        found = pair_costs(problem, pair, VOCAB)
        for half in range(2):
            t = 2 * pair + half
            ranks = naive.null_ranks(SEED_KEY, t, VOCAB, VOCAB)
            assert sorted(ranks) == list(range(VOCAB))
            for j in sorted({0, 1 % n, n // 2, n - 1}):
                word = naive.null_uniform(SEED_KEY, t, j, n) << 16
                expected = [naive.its_cost_units(word, rank, denominator) for rank in ranks]
                assert found[half, :, j].tolist() == expected


@settings(max_examples=25, deadline=None)
@given(
    scheme=st.sampled_from(sorted(PAPER)),
    n=st.sampled_from([1, 16, 21, 40]),
    n_rows=st.integers(1, 4),
    gamma=st.sampled_from([0, 1, 3000, 26214, 200_000]),
    shift=st.integers(5, 12),
    group=st.sampled_from([0, 3, 2**20]),
)
def test_int16_costs_bound_the_exact_ones(scheme, n, n_rows, gamma, shift, group):
    problem = make_problem(scheme, n, gamma)
    shift = max(shift, problem.bits_lost(1))
    out = np.empty(n_rows * n * 32, np.int16)
    seen = np.zeros(VOCAB + 1, np.int32)
    resample.make_bounds(SEED_KEY, problem, group, n_rows, shift, seen, out)
    bounds = out.reshape(n_rows, n, 32).astype(np.int64)
    exact = np.stack(
        [pair_costs(problem, 16 * group + p, n_rows)[:, :, :n].copy() for p in range(16)]
    )
    exact = exact.reshape(32, n_rows, n).transpose(1, 2, 0) / 2.0**shift
    assert (bounds <= exact).all()
    # Not vacuous: within rounding (two units), the quadratic's 0.0069 nats and the 16 bits not looked at.
    slack = 4 if COSTS[problem.cost].ranked else 3 + 40 * 2.0 ** (12 - shift)
    likely = exact + 2 * problem.gamma / 2.0**shift > -9 * 4096 / 2.0**shift
    assert (exact - bounds)[likely].max() <= slack


def test_exp_bound_holds_for_every_high_half():
    # All 65,536 high halves, through the same two kernels: the least cost of a high half has all low bits set.
    from numba import njit

    from wmcore.kernels.cpu.simd import load_i32, store

    @njit
    def bounds_of(high, terms, out):
        for first in range(0, high.size, 16):
            store(out, first, resample._exp_bound_16(load_i32(high, first), terms))

    high = np.arange(65536, dtype=np.int32)
    exact = np.empty(65536, np.int32)
    words_to_costs((high.astype(np.uint32) << 16) | np.uint32(0xFFFF), exact)
    for shift in range(2, 14):
        for offset in (0, -2 * 1638):
            out = np.empty(65536, np.int32)
            bounds_of(high, resample.exp_bound_terms(shift, offset), out)
            assert (out <= (exact + offset) / 2.0**shift).all()
