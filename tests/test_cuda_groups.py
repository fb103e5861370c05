"""What is the CUDA backend's alone: which texts take which kernels, the range of int16 bounds, records and launches."""

import numpy as np
import pytest
from cuda_shim.device import ShimDevice, layout_of
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import PAPER
from test_backends import KEY, VOCAB, fits, make_problem, null, tally

from wmcore.kernels import load
from wmcore.kernels.cuda import groups
from wmcore.kernels.cuda.backend import CudaBackend
from wmcore.kernels.cuda.launch import layout
from wmcore.kernels.cuda.source import parameters
from wmcore.kernels.cuda.structs import FIELDS, SCALARS, record
from wmcore.kernels.problem import COSTS, NOTHING, CostTable, pack
from wmcore.schemes import SCHEMES

EDITS = [s for s in sorted(PAPER) if SCHEMES[s].alignment.gaps]
cpu = load("cpu")


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_records_lie_as_the_compiler_lays_structs(name):
    mine = record(name)
    fields, size = layout_of(name)
    assert mine.itemsize == size
    assert {f: (mine.fields[f][1], mine.fields[f][0].itemsize) for f in mine.names} == fields


def test_every_entry_takes_records_pointers_and_known_scalars():
    """The shim checks each launch against these; none takes more than eight."""
    for name, wanted in parameters().items():
        assert 1 <= len(wanted) <= 8, name
        for kind, _ in wanted:
            assert kind in FIELDS or kind in SCALARS or kind.endswith("*"), (name, kind)


def test_arguments_of_another_type_are_refused():
    device = ShimDevice()
    numbers = device.array(np.arange(3))
    with pytest.raises(AssertionError, match="takes 5 arguments"):
        device.launch("exp_costs", (1, 1), 32, (numbers,))
    key = device.array(KEY)
    for arguments, message in [
        ((numbers, numbers, np.int64(1), np.int32(1), numbers), "secret is a const u32"),
        ((key, numbers, np.int32(1), np.int32(1), numbers), "U is a long long, not"),
    ]:
        with pytest.raises((AssertionError, TypeError), match=message):
            device.launch("exp_costs", (1, 1), 32, arguments)


@pytest.mark.parametrize("scheme", sorted(PAPER))
def test_a_long_text_does_not_slow_the_others(scheme):
    """A text whose tile does not fit in shared memory is treated apart; the results are the same."""
    device = ShimDevice(shared_bytes=4096)
    staged = []
    launch = device.launch

    def watched(name, grid, threads, arguments, shared=0):
        if name in ("hits", "observe"):
            rooms = [a for a in arguments if getattr(a, "name", "") == "Room"]
            staged.append((name, int(rooms[0].value["staged"])))
        launch(name, grid, threads, arguments, shared)

    device.launch = watched
    backend = CudaBackend(device)
    texts = [np.arange(m) % VOCAB for m in (9, 50, 12, 8)]
    problem = make_problem(scheme, 11, 2000)
    packed = pack(texts, None)
    value = [np.sort(x)[5] for x in null(problem, packed, 0, 32)]
    expected = tally(cpu, problem, packed, value, 99, 0, 32)
    assert np.array_equal(tally(backend, problem, packed, value, 99, 0, 32), expected)
    table = CostTable(cpu.exp_costs(KEY, np.arange(VOCAB), 11, 1), packed.distinct)
    best = np.full(4, NOTHING, np.int32)
    expected = cpu.observe(problem, packed, table, best, 1)
    assert np.array_equal(backend.observe(problem, packed, table, best, 1), expected)
    assert set(staged) == {(name, flag) for name in ("hits", "observe") for flag in (0, 1)}


@settings(max_examples=300, deadline=None)
@given(
    scheme=st.sampled_from(EDITS),
    n=st.integers(1, 5000),
    k=st.integers(1, 8192),
    gamma=st.integers(0, 10**9),
)
def test_the_range_of_int16_bounds_holds_every_sum(scheme, n, k, gamma):
    problem = make_problem(scheme, n, gamma)
    if not fits(problem, [np.zeros(k)], None) or problem.gaps_useless(k):
        return
    found = groups.bound_range(problem, k)
    assert found is not None
    shift, base, guard, fall, rise = found
    cost, offset = COSTS[problem.cost], -2 * gamma
    lowest = offset + (cost.least - 1 if not cost.ranked else 0)
    highest = offset + cost.most
    assert -(2**15) <= lowest >> shift <= highest >> shift < 2**15
    assert base + max(0, highest >> shift) < 2**15  # no value is above base
    assert guard + min(0, lowest >> shift) >= -(2**15)  # no value down to guard wraps
    # Nor does the border, nor the way back, nor either in units of 2**-16.
    assert rise << shift <= gamma << 16 <= fall << shift
    assert fall - rise in (0, 1)
    assert base - (fall * (n + k) + 65535 >> 16) >= guard
    assert rise * (n + k) < 2**31


def test_the_papers_texts_fit_in_an_h100s_shared_memory():
    device = ShimDevice(shared_bytes=232_448)
    for scheme, bytes_needed in (("exp", 205_824), ("exp-edit", 231_552)):
        where = layout(device, make_problem(scheme, 256), 200, 200, (1, 1))
        assert where.shared == bytes_needed
        assert where.room.value["staged"]


@pytest.mark.parametrize(("scheme", "gamma"), [("exp-edit", 0), ("its-edit", 26214)])
def test_bounds_decide_resamples(scheme, gamma):
    """Not vacuous: where a text fits its key far better than the resamples do, few are looked at twice."""
    opened = []

    class Device(ShimDevice):
        def launch(self, name, grid, threads, arguments, shared=0):
            super().launch(name, grid, threads, arguments, shared)
            if name == "bound":
                opened.append(self.to_host(arguments[-2]))

    text = np.random.default_rng(3).integers(0, VOCAB, size=40)
    problem = make_problem(scheme, 40, gamma)
    packed = pack([text], None)
    (expected,) = null(problem, packed, 0, 64)
    backend = CudaBackend(Device())
    value = [expected.min() - problem.scale * 40]
    assert not tally(backend, problem, packed, value, 99, 0, 64)[0].any()
    assert opened[0].size == 64
    assert opened[0].sum() <= 2
    hits, used = tally(backend, problem, packed, expected[:1], 1, 0, 64)
    assert hits[0] == 1
    assert used[0] == np.flatnonzero(expected <= expected[0])[0] + 1
    assert 1 <= opened[1].sum() <= 64
