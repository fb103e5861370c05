"""Hypothesis strategies for alignment problems: small, with repeats, ties and sizes around 1, k, n and 16."""

import numpy as np
from hypothesis import strategies as st
from numba import njit

from wmcore.kernels.cpu import resample
from wmcore.kernels.cpu.costs import exp_cost
from wmcore.kernels.cpu.simd import load_i32, store
from wmcore.kernels.problem import Problem
from wmcore.schemes import SCHEMES

PAPER = [name for name, scheme in SCHEMES.items() if not scheme.alignment.scored]
WHOLE_OR_BLOCKS = [(name, False) for name in SCHEMES] + [(name, True) for name in PAPER]
"""The schemes whose statistic is a sum of token costs over blocks and windows, as in the paper."""
SCORED = [name for name in SCHEMES if name not in PAPER]
"""Those that add up scores over whole texts."""

SEED_KEY = np.arange(1, 9, dtype=np.uint32) * np.uint32(0x9E3779B1)
VOCAB = 60
SIZES = [1, 2, 3, 15, 16, 17, 31, 32, 33, 40]


@st.composite
def problems(draw, max_length=24, sizes=SIZES, low=-60, high=60):
    """(costs int32 [U, n], inverse int64 [m], k, gamma): k may exceed n, m may exceed k."""
    n = draw(st.sampled_from(sizes))
    m = draw(st.integers(1, max_length))
    k = draw(st.sampled_from(sorted({1, m, max(1, m - 1), (m + 1) // 2, min(m, 4), min(m, 5)})))
    gamma = draw(st.sampled_from([0, 1, 2, 7, 50, 1000]))
    n_rows = draw(st.integers(1, m))
    spread = draw(st.sampled_from([0, 1, high]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    costs = rng.integers(max(low, -spread), min(high, spread) + 1, size=(n_rows, n)).astype(
        np.int32
    )
    inverse = rng.integers(0, n_rows, size=m).astype(np.int64)
    return costs, inverse, k, gamma


def wrapped(costs, offset=0):
    """The matrix that kernels take: offset added, 16 columns repeated at the end."""
    n = costs.shape[1]
    return np.ascontiguousarray(costs[:, np.arange(n + 16) % n] + np.int32(offset))


@njit
def words_to_costs(words, out):
    """out[i] = the exp cost of words[i]: int32 arrays of a multiple of 16."""
    for first in range(0, words.size, 16):
        store(out, first, exp_cost(load_i32(words, first)))


def make_problem(scheme, n, gamma=0, denominator=VOCAB - 1):
    """A scheme's test of texts of VOCAB tokens."""
    row = SCHEMES[scheme]
    gamma = gamma if row.alignment.gaps else 0
    return Problem(row.cost.code, row.alignment.code, n, gamma, VOCAB, denominator)


def pair_costs(problem, pair, n_rows):
    """int32 [2, n_rows, >= n + 16]: the costs of two resamples, 2 gamma taken off."""
    scratch = resample.resample_scratch(problem, n_rows)
    return resample.make_pair(SEED_KEY, problem, pair, n_rows, scratch)
