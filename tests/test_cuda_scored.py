"""Scored alignments on the CUDA backend: bits of the CPU at the sizes where groups, rounds and chunks end, and how much
memory is taken. tests/test_scored.py compares every backend with the definition."""

import numpy as np
import pytest
from cuda_shim.device import ShimDevice
from cuda_shim.ways import SHIMS
from matrices import SEED_KEY

from wmcore.kernels import load
from wmcore.kernels.constants import LEVELS
from wmcore.kernels.cuda.backend import CudaBackend
from wmcore.kernels.problem import (
    EXP,
    FREE,
    ITS,
    LOCAL,
    Problem,
    Resamples,
    ScoredTexts,
    Scoring,
    pack,
)

V = 60
KINDS = [(cost, alignment) for cost in (EXP, ITS) for alignment in (FREE, LOCAL)]
cpu = load("cpu")


class Watched(ShimDevice):
    """Keeps what each launch was told."""

    def __init__(self, **options):
        super().__init__(**options)
        self.calls = []

    def launch(self, name, grid, threads, arguments, shared=0):
        super().launch(name, grid, threads, arguments, shared)
        by_name = {a.name: a.value for a in arguments if hasattr(a, "value")}
        self.calls.append((name, grid, threads, by_name))

    def told(self, field, record, names):
        """A field of a record in the launches of these kernels."""
        return [int(r[record][field]) for name, _, _, r in self.calls if name in names]


def make(lengths, bins=1, large=90, seed=0):
    """Texts of these lengths, `ScoredTexts` with costs up to `large`."""
    rng = np.random.default_rng(seed)
    texts = pack([rng.integers(0, V, size=m) for m in lengths], None)
    costs = rng.integers(-large, large, size=(bins, LEVELS)).astype(np.int16)
    levels = rng.integers(0, LEVELS, size=65536).astype(np.uint8)
    return ScoredTexts(
        texts,
        rng.integers(bins, size=len(texts.inverse)).astype(np.uint8),
        rng.integers(0, 300, size=len(lengths)).astype(np.int32),
        Scoring(levels, costs, np.ones(costs.shape)),
    )


def null(backend, problem, scored, first, stop):
    """The statistics of every text: int32 [N, stop - first]."""
    some = Resamples(SEED_KEY, first, stop)
    return np.stack([backend.null_scored(problem, scored, a, some, 1) for a in range(scored.size)])


def compare(backend, problem, scored, first, stop):
    """Statistics, and hits and their places with limits that are met and not met, are the CPU's."""
    expected = null(cpu, problem, scored, first, stop)
    assert np.array_equal(null(backend, problem, scored, first, stop), expected)
    value = np.sort(expected, axis=1)[:, (stop - first) // 2].astype(np.int32)
    value[0] = expected[0].max()
    for limit in (0, 1, 7, 10**6):
        limits = np.full(scored.size, limit, np.int64)
        limits[-1] = 3
        some = Resamples(SEED_KEY, first // 32 * 32, stop)
        mine = backend.tally_scored(problem, scored, value, limits, some, 1)
        assert np.array_equal(mine, cpu.tally_scored(problem, scored, value, limits, some, 1))
    assert 0 < mine[1][0] == stop - first // 32 * 32


@pytest.fixture(params=SHIMS)
def device(request):
    """The host in several ways: in shared memory and beside it."""
    return Watched(**SHIMS[request.param])


@pytest.mark.parametrize(("cost", "alignment"), KINDS)
@pytest.mark.parametrize("n", [1, 7, 8, 9, 31, 32, 33, 127, 128, 129])
def test_sizes_at_which_rounds_and_groups_end(device, cost, alignment, n):
    problem = Problem(cost, alignment, n, 58, V, V - 1)
    scored = make([1, 5, 33], bins=3, seed=n)
    compare(CudaBackend(device), problem, scored, 32, 32 + (n % 3 + 31))
    assert {"scored_levels", "scored_hits", "scored_values"} <= set(device.launched)


@pytest.mark.parametrize(("cost", "alignment"), KINDS)
@pytest.mark.parametrize(
    ("first", "stop"), [(0, 1), (0, 128), (34, 163), (64, 65), (2**32 - 64, 2**32 + 32)]
)
def test_ranges_of_resamples(device, cost, alignment, first, stop):
    problem = Problem(cost, alignment, 17, 3, V, V - 1)
    compare(CudaBackend(device), problem, make([20, 2]), first, stop)


@pytest.mark.parametrize(("cost", "alignment"), KINDS)
@pytest.mark.parametrize("gamma", [0, 1, 16_000])
def test_sums_saturate_as_on_the_cpu(device, cost, alignment, gamma):
    problem = Problem(cost, alignment, 9, gamma, V, V - 1)
    scored = make([30, 12, 1], bins=2, large=2**15 - 1)
    scored.scoring.costs[0, ::2] = [-(2**15), 2**15 - 1] * (LEVELS // 4)
    compare(CudaBackend(device), problem, scored, 0, 64)


def test_the_cost_without_gaps_saturates(device):
    """Three tokens to the lower end of int16, then four that cost 100 each: the bonus beats what gaps would save."""
    problem = Problem(EXP, FREE, 9, 150, V, V - 1)
    scored = make([7, 7], bins=2)
    scored.bins[:] = [0, 0, 0, 1, 1, 1, 1] * 2
    scored.bonus[:] = 300
    scored.scoring.costs[0], scored.scoring.costs[1] = -20_000, 100
    found = null(CudaBackend(device), problem, scored, 0, 32)
    assert (found == -(2**15) + 150 + 4 * 100 - 300).all()
    compare(CudaBackend(device), problem, scored, 0, 32)


def test_saturation_is_met():
    """Not vacuous: statistics at the end of int16."""
    scored = make([30], large=2**15 - 1)
    values = null(cpu, Problem(EXP, LOCAL, 9, 1, V, V - 1), scored, 0, 32)
    assert values.min() == -(2**15)


@pytest.mark.parametrize(("cost", "alignment"), KINDS)
def test_the_table_of_many_bins_goes_beside_shared_memory_with_the_state(cost, alignment):
    device = Watched()
    problem = Problem(cost, alignment, 16, 20, V, V - 1)
    for bins in (1, 256):
        compare(CudaBackend(device), problem, make([40, 9], bins), 0, 64)
    staged = device.told("staged", "Room", {"scored_hits", "scored_values"})
    assert set(staged) == {0, 1}
    assert staged == sorted(staged, reverse=True)


@pytest.mark.parametrize("cost", [EXP, ITS])
def test_memory_is_bounded_by_chunks(cost):
    """Levels, flags and the state beside shared memory stay below the device's share, whatever the resamples are."""
    memory = 1 << 19
    device = Watched(shared_bytes=64, memory=memory, threads=128, processors=40)
    problem = Problem(cost, FREE, 40, 20, V, V - 1)
    scored = make([50, 60, 3])
    compare(CudaBackend(device), problem, scored, 0, 320)
    kernels = {"scored_hits", "scored_values"}
    counts = np.array(device.told("count", "Resamples", kernels))
    rows = np.array(device.told("rows", "Scores", kernels))
    assert set(rows) == ({1} if cost == ITS else set(scored.texts.rows))
    assert (counts * rows * problem.n).max() <= memory // 4
    assert (counts[rows == rows.max()].max() < 320) == (cost == EXP)
    for name, grid, threads, records in device.calls:
        if name in kernels:
            assert threads <= 128
            assert grid[0] * 4 * int(records["Room"]["tile_size"]) <= memory // 4


def test_few_tasks_are_spread_over_the_processors():
    device = Watched(threads=128, processors=4)
    problem = Problem(EXP, LOCAL, 8, 20, V, V - 1)
    null(CudaBackend(device), problem, make([9]), 0, 128)
    name, grid, threads, _ = device.calls[-1]
    assert (name, grid, threads) == ("scored_values", (4, 1), 32)
