"""The CUDA kernels, compiled for the host, give the CPU kernels' results bit for bit: costs, statistics and hits."""

import numpy as np
import pytest
from cuda_shim.device import ShimDevice
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import problems

from wmcore.kernels import cpu
from wmcore.kernels.cuda import groups, host
from wmcore.kernels.packing import Problem, pack

KEY = np.arange(1, 9, dtype=np.uint32) * np.uint32(0x9E3779B1)
VOCAB = 60
SCHEMES = ["exp", "exp-edit", "its", "its-edit"]
MOST = 2**31 - 1
# Tiles in shared memory, and beside it; blocks and lanes forwards and backwards; DPX and what replaces it.
DEVICES = {
    "shared": {},
    "beside": {"shared_bytes": 64, "threads": 32, "processors": 2, "memory": 1 << 17},
    "reverse": {"threads": 96, "processors": 5, "reverse": True},
    "dpx": {"arch": 900},
}


@pytest.fixture(scope="module")
def hosts():
    return {name: host.Host(ShimDevice(**settings)) for name, settings in DEVICES.items()}


def make_problem(scheme, n, gamma=0, vocab_size=VOCAB):
    its, edits = scheme.startswith("its"), scheme.endswith("edit")
    return Problem(its, edits, n, gamma if edits else 0, vocab_size, vocab_size - 1)


def fits(problem, texts, block_length):
    """Whether the gap cost is one that `block_error` lets through."""
    for text in texts:
        k = block_length or len(text)
        if problem.gamma > problem.largest_gamma(k) and not problem.gaps_useless(k):
            return False
    return True


def least(problem, packed, count):
    return [cpu.null_values(problem, packed, a, KEY, 0, count, 1) for a in range(len(packed))]


def cpu_hits(problem, packed, value, active, first, last):
    limit = np.full(len(packed), 10**9)
    return cpu.hits(problem, packed, value, active, limit, KEY, first, last, 1)


@pytest.mark.parametrize("n", [1, 15, 16, 17, 40, 300])
def test_costs(hosts, n):
    tokens = np.array([0, 1, 15, 16, 255, 256, 700, 49151, 151_935, 700])
    expected = cpu.exp_costs(KEY, tokens, n, 1)
    for each in hosts.values():
        assert (each.exp_costs(KEY, tokens, n) == expected).all()
        assert each.exp_costs(KEY, tokens[:0], n).shape == (0, n)
    table, resident = hosts["shared"].exp_table(KEY, 300, n)
    assert (table[:300] == cpu.exp_table(KEY, 300, n, 1)[:300, :n]).all()
    assert (table == resident).all()


@settings(max_examples=40, deadline=None)
@given(
    scheme=st.sampled_from(SCHEMES),
    n=st.sampled_from([1, 2, 15, 16, 17, 40, 70]),
    gamma=st.sampled_from([0, 1, 400, 3000, 26214, 10**6, 10**9]),
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    blocks=st.booleans(),
    rank=st.sampled_from([-1, 0, 1, 3, 31]),
    spread=st.sampled_from([1, 5, VOCAB]),
    device=st.sampled_from(sorted(DEVICES)),
    seed=st.integers(0, 2**32 - 1),
)
def test_hits_and_statistics(hosts, scheme, n, gamma, lengths, blocks, rank, spread, device, seed):
    rng = np.random.default_rng(seed)
    texts = [rng.integers(0, spread, size=m) for m in lengths]
    block_length = min(lengths) if blocks else None
    problem = make_problem(scheme, n, gamma)
    if not fits(problem, texts, block_length):
        return
    packed = pack(texts, block_length)
    null = least(problem, packed, 32)
    for a, expected in enumerate(null):
        assert (hosts[device].null_values(problem, packed, a, KEY, 0, 32) == expected).all()
    value = np.array([np.sort(x)[rank] if rank >= 0 else x.min() - 1 for x in null], np.int32)
    found = hosts[device].hits(problem, packed, value, np.arange(len(texts)), KEY, 0, 32)
    assert (found == [x <= v for x, v in zip(null, value, strict=True)]).all()


@settings(max_examples=60, deadline=None)
@given(
    problem=problems(max_length=20, low=-93_000, high=0),
    edits=st.booleans(),
    device=st.sampled_from(sorted(DEVICES)),
    extra=st.integers(0, 3),
)
def test_observe(hosts, problem, edits, device, extra):
    costs, inverse, k, gamma = problem
    n = costs.shape[1]
    scheme = make_problem("exp-edit" if edits else "exp", n, gamma)
    other = np.arange(k) % 3
    packed = pack([inverse, other, inverse[::-1].copy()], k)
    rng = np.random.default_rng(extra)
    costs = np.concatenate([costs, rng.integers(-5, 1, size=(3, n))]).astype(np.int32)
    source = rng.integers(0, len(costs), size=len(packed.distinct))
    best = np.full(3, MOST, np.int32)
    expected = cpu.observe(scheme, packed, costs, source, best, 1)
    found = hosts[device].observe(scheme, packed, costs, source, best)
    for x, y in zip(found, expected, strict=True):
        assert (x == y).all()
    best = expected[0] - np.array([1, 0, 5], np.int32)  # only the second is small enough
    found = hosts[device].observe(scheme, packed, costs, source, best)
    for x, y in zip(found, cpu.observe(scheme, packed, costs, source, best, 1), strict=True):
        assert (x == y).all()
    assert found[0].tolist() == [MOST, expected[0][1], MOST]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("m", "block_length"), [(31, None), (32, None), (33, None), (65, 64), (129, None), (300, None)]
)
def test_lengths_around_strips(hosts, scheme, m, block_length):
    """32, 64, 128 and 256 tokens are what a strip of a warp holds; longer texts take several."""
    text = np.random.default_rng(m).integers(0, VOCAB, size=m)
    problem = make_problem(scheme, 19, 2000)
    packed = pack([text], block_length)
    (null,) = least(problem, packed, 32)
    value = np.sort(null)[[7]]
    for name in ("shared", "beside"):
        found = hosts[name].hits(problem, packed, value, np.arange(1), KEY, 0, 32)
        assert (found[0] == (null <= value)).all()
    assert (hosts["beside"].null_values(problem, packed, 0, KEY, 4, 7) == null[4:7]).all()


@pytest.mark.parametrize("scheme", ["exp-edit", "its-edit"])
def test_a_long_key_takes_several_super_windows(hosts, scheme):
    texts = [np.random.default_rng(m).integers(0, VOCAB, size=m) for m in (12, 25)]
    problem = make_problem(scheme, 300, 26214 if scheme == "its-edit" else 0)
    packed = pack(texts, None)
    null = least(problem, packed, 64)
    value = np.array([np.sort(x)[3] for x in null], np.int32)
    for name in ("shared", "beside"):
        found = hosts[name].hits(problem, packed, value, np.arange(2), KEY, 0, 64)
        assert (found == [x <= v for x, v in zip(null, value, strict=True)]).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_ranges_batches_and_inactive_texts(hosts, scheme):
    rng = np.random.default_rng(1)
    texts = [rng.integers(0, VOCAB, size=m) for m in (1, 7, 30, 12, 35, 2, 18)]
    problem = make_problem(scheme, 21, 1000)
    packed = pack(texts, None)
    value = np.array([np.sort(x)[5] for x in least(problem, packed, 32)], np.int32)
    active = np.array([0, 2, 4, 6])
    whole = cpu_hits(problem, packed, value, active, 32, 96)
    for name in ("shared", "reverse"):
        found = hosts[name].hits(problem, packed, value, active, KEY, 32, 96)
        assert (found == whole).all()
    parts = [hosts["dpx"].hits(problem, packed, value, active, KEY, a, a + 32) for a in (32, 64)]
    assert (np.concatenate(parts, axis=1) == whole).all()
    assert not hosts["shared"].hits(problem, packed, value, active[:0], KEY, 0, 32).any()


@pytest.mark.parametrize("limit", [1, 2, 31, 32, 33, 10**6])
@pytest.mark.parametrize("stop", [33, 64, 129, 160])
def test_tally(limit, stop):
    """Counted on the device, over several chunks, also where a chunk ends between two resamples."""
    device = ShimDevice(memory=1 << 14)
    rng = np.random.default_rng(2)
    texts = [rng.integers(0, VOCAB, size=m) for m in (4, 11, 7)]
    problem = make_problem("exp", 12)
    packed = pack(texts, None)
    value = np.array(
        [np.sort(x)[r] for x, r in zip(least(problem, packed, 160), (9, 80, 159), strict=True)]
    )
    value = value.astype(np.int32)
    for active in (np.arange(3), np.array([1]), np.arange(0)):
        limits = np.array([limit, limit, min(limit, 50)])
        expected = cpu.tally(problem, packed, value, active, limits, KEY, 32, stop, 1)
        found = host.Host(device).tally(problem, packed, value, active, limits, KEY, 32, stop)
        assert all((x == y).all() for x, y in zip(found, expected, strict=True))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_long_text_does_not_slow_the_others(scheme):
    """A text whose tile does not fit in shared memory is treated apart; the results are the same."""
    device = ShimDevice(shared_bytes=4096)
    staged = []
    launch = device.launch

    def watched(name, grid, threads, arguments, shared=0):
        if name in ("hits", "observe"):
            staged.append((name, int(arguments[-5])))
        launch(name, grid, threads, arguments, shared)

    device.launch = watched
    texts = [np.arange(m) % VOCAB for m in (9, 50, 12, 8)]
    problem = make_problem(scheme, 11, 2000)
    packed = pack(texts, None)
    null = least(problem, packed, 32)
    value = np.array([np.sort(x)[5] for x in null], np.int32)
    found = host.Host(device).hits(problem, packed, value, np.arange(4), KEY, 0, 32)
    assert (found == [x <= v for x, v in zip(null, value, strict=True)]).all()
    costs = cpu.exp_costs(KEY, np.arange(VOCAB), 11, 1)
    best = np.full(4, MOST, np.int32)
    expected = cpu.observe(problem, packed, costs, packed.distinct, best, 1)
    seen = host.Host(device).observe(problem, packed, costs, packed.distinct, best)
    assert all((x == y).all() for x, y in zip(seen, expected, strict=True))
    assert set(staged) == {(name, flag) for name in ("hits", "observe") for flag in (0, 1)}


def test_ranks_of_a_whole_vocabulary(hosts):
    """Every rank is drawn in the end: repeats within a batch of draws, and from far back."""
    problem = make_problem("its", 5, vocab_size=77)
    packed = pack([np.random.default_rng(0).permutation(77)], None)
    for each in hosts.values():
        found = each.null_values(problem, packed, 0, KEY, 0, 9)
        assert (found == cpu.null_values(problem, packed, 0, KEY, 0, 9, 1)).all()


@settings(max_examples=25, deadline=None)
@given(
    scheme=st.sampled_from(SCHEMES),
    n=st.sampled_from([1, 3, 16, 33]),
    m=st.integers(1, 40),
    gamma=st.sampled_from([0, 7, 2000]),
    spread=st.sampled_from([1, 6, VOCAB]),
    device=st.sampled_from(sorted(DEVICES)),
    seed=st.integers(0, 2**32 - 1),
)
def test_prefixes(hosts, scheme, n, m, gamma, spread, device, seed):
    text = np.random.default_rng(seed).integers(0, spread, size=m)
    problem = make_problem(scheme, n, gamma)
    packed = pack([text], None)
    costs = cpu.exp_costs(KEY, packed.distinct, n, 1)
    value = cpu.observe_prefixes(problem, packed, costs)
    assert (hosts[device].observe_prefixes(problem, packed, costs) == value).all()
    expected = cpu.prefix_hits(problem, packed, value, KEY, 2, 13, 1)
    assert (hosts[device].prefix_hits(problem, packed, value, KEY, 2, 13) == expected).all()


def test_long_prefixes(hosts):
    text = np.random.default_rng(9).integers(0, VOCAB, size=270)
    for scheme in ("exp", "its-edit"):
        problem = make_problem(scheme, 5, 3000)
        packed = pack([text], None)
        costs = cpu.exp_costs(KEY, packed.distinct, 5, 1)
        value = cpu.observe_prefixes(problem, packed, costs)
        assert (hosts["shared"].observe_prefixes(problem, packed, costs) == value).all()
        expected = cpu.prefix_hits(problem, packed, value, KEY, 0, 3, 1)
        assert (hosts["shared"].prefix_hits(problem, packed, value, KEY, 0, 3) == expected).all()


@settings(max_examples=300, deadline=None)
@given(
    scheme=st.sampled_from(["exp-edit", "its-edit"]),
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
    shift, base, guard = found
    lowest = problem.offset - (0 if problem.its else problem.largest_cost + 1)
    highest = problem.offset + (problem.largest_cost if problem.its else 0)
    assert -(2**15) <= lowest >> shift <= highest >> shift < 2**15
    assert base + max(0, highest >> shift) < 2**15  # no value is above base
    assert guard + min(0, lowest >> shift) >= -(2**15)  # no value down to guard wraps
    assert base + (-gamma * (n + k) >> shift) >= guard  # nor does the border


@pytest.mark.parametrize(("scheme", "gamma"), [("exp-edit", 0), ("its-edit", 26214)])
def test_bounds_decide_resamples(scheme, gamma):
    """Not vacuous: where a text fits its key far better than the resamples do, few are looked at twice."""
    opened = []

    class Device(ShimDevice):
        def launch(self, name, grid, threads, arguments, shared=0):
            super().launch(name, grid, threads, arguments, shared)
            if name == "bound":
                opened.append(arguments[-6])

    text = np.random.default_rng(3).integers(0, VOCAB, size=40)
    problem = make_problem(scheme, 40, gamma)
    packed = pack([text], None)
    (null,) = least(problem, packed, 64)
    value = np.array([null.min() - problem.scale * 40], np.int32)
    device = host.Host(Device())
    assert not device.hits(problem, packed, value, np.arange(1), KEY, 0, 64).any()
    assert opened[0].size == 64
    assert opened[0].sum() <= 2
    assert device.hits(problem, packed, null[:1], np.arange(1), KEY, 0, 64)[0, 0]
    assert 1 <= opened[1].sum() <= 64
