"""Free and local alignments: making a group of 32 resamples, and aligning a text with it (`make bench`)."""

import numpy as np
import pytest

from wmcore.kernels.cpu import scored
from wmcore.kernels.cpu.jit import njit
from wmcore.kernels.problem import EXP, FREE, LOCAL, Problem
from wmcore.scores import named_scores

N, M, U = 256, 100, 70
SCORING = named_scores("exp", "log").table.scoring()
SEED = np.arange(8, dtype=np.uint32)


def problem(alignment):
    return Problem(EXP, alignment, N, 58, 49152, 0)


@njit(nogil=True)
def scratch(problem, scoring):
    return scored.group_scratch(problem, scoring, U), scored.lanes_scratch(problem.n)


@njit(nogil=True)
def make(problem, scoring, group):
    scored.make_group(SEED, problem, 0, U, scoring, group)


@njit(nogil=True)
def align(problem, inverse, bins, group, lanes):
    scored.statistics(problem, inverse, bins, 0, group, lanes)


def test_scored_group(benchmark):
    group, _ = scratch(problem(FREE), SCORING)
    benchmark(make, problem(FREE), SCORING, group)
    benchmark.extra_info["us_per_resample"] = round(1e6 * benchmark.stats.stats.median / 32, 2)


@pytest.mark.parametrize("alignment", [FREE, LOCAL], ids=["free", "local"])
def test_scored_int16(benchmark, alignment):
    group, lanes = scratch(problem(alignment), SCORING)
    make(problem(alignment), SCORING, group)
    inverse = np.random.default_rng(0).integers(0, U, size=M)
    benchmark(align, problem(alignment), inverse, np.zeros(M, np.uint8), group, lanes)
    cells = 32 * N * M
    benchmark.extra_info["Gcells_per_s"] = round(cells / benchmark.stats.stats.median / 1e9, 2)
