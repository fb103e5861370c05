"""One body of numerical tests for every backend: definitions for the statistic, the CPU for everything it feeds.

The CPU's own numbers are held to brute force in test_null.py and test_alignments.py.
"""

import inspect
from itertools import combinations

import naive
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matrices import PAPER, problems

from wmcore.kernels import BACKENDS, Backend, load
from wmcore.kernels.backend import ExpNumbers, ItsNumbers
from wmcore.kernels.problem import (
    COSTS,
    EDIT,
    EXP,
    NOTHING,
    PLAIN,
    CostTable,
    Problem,
    Resamples,
    block_error,
    pack,
)
from wmcore.schemes import SCHEMES

KEY = np.arange(1, 9, dtype=np.uint32) * np.uint32(0x9E3779B1)
VOCAB = 60
SCHEME_NAMES = sorted(PAPER)
examples = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
cpu = load("cpu")


def make_problem(scheme, n, gamma=0, vocab_size=VOCAB):
    row = SCHEMES[scheme]
    gamma = gamma if row.alignment.gaps else 0
    return Problem(row.cost.code, row.alignment.code, n, gamma, vocab_size, vocab_size - 1)


def fits(problem, texts, block_length):
    """Whether the gap cost is one that is let through."""
    return not any(block_error(problem, len(t), block_length or len(t)) for t in texts)


def null(problem, packed, first, stop, backend=cpu):
    """The statistics of every text."""
    return [
        backend.null_values(problem, packed, a, Resamples(KEY, first, stop), 1)
        for a in range(packed.size)
    ]


def tally(backend, problem, packed, value, limit, first, stop):
    value = np.asarray(value, np.int32)
    limit = np.broadcast_to(np.asarray(limit, np.int64), packed.size).copy()
    return backend.tally(problem, packed, value, limit, Resamples(KEY, first, stop), 1)


def which(backend, problem, packed, value, first, stop):
    """bool [N, stop - first]: resamples that fit, from the places of the first, second, third hit."""
    found = np.zeros((packed.size, stop - first), bool)
    hits, _ = tally(backend, problem, packed, value, stop - first, first, stop)
    for h in range(1, int(hits.max(initial=0)) + 1):
        _, used = tally(backend, problem, packed, value, h, first, stop)
        for a in np.flatnonzero(hits >= h):
            found[a, used[a] - 1] = True
    return found


@pytest.mark.parametrize("name", sorted(BACKENDS))
def test_overrides_have_the_signatures_of_the_contract(name):
    for method, contract in inspect.getmembers(Backend, inspect.isfunction):
        if not method.startswith("_"):
            mine = inspect.signature(getattr(type(load(name)), method))
            assert mine == inspect.signature(contract), method
    overridden = vars(type(load(name)))
    silent = [
        method
        for method, f in inspect.getmembers(Backend, inspect.isfunction)
        if "raise NotImplementedError" in inspect.getsource(f) and method not in overridden
    ]
    assert not silent


def test_no_method_takes_more_than_eight_arguments():
    for method, contract in inspect.getmembers(Backend, inspect.isfunction):
        assert len(inspect.signature(contract).parameters) <= 8, method


@pytest.mark.parametrize("n", [1, 15, 16, 17, 40, 300])
def test_costs(backend, n):
    tokens = np.array([0, 1, 15, 16, 255, 256, 700, 49151, 151_935, 700])
    expected = cpu.exp_costs(KEY, tokens, n, 1)
    some = CostTable(backend.exp_costs(KEY, tokens, n, 1), np.array([3, 0, 9, 3]))
    assert (backend.gather(some, n) == expected[[3, 0, 9, 3]]).all()
    none = CostTable(backend.exp_costs(KEY, tokens[:0], n, 1), np.arange(0))
    assert backend.gather(none, n).shape == (0, n)
    table = CostTable(backend.exp_table(KEY, 300, n, 1), np.arange(300))
    assert (backend.gather(table, n) == cpu.exp_costs(KEY, np.arange(300), n, 1)).all()


@settings(examples, max_examples=15)
@given(
    scheme=st.sampled_from(SCHEME_NAMES),
    n=st.sampled_from([1, 2, 15, 16, 17, 40, 70]),
    gamma=st.sampled_from([0, 1, 400, 3000, 26214, 10**6, 10**9]),
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    blocks=st.booleans(),
    rank=st.sampled_from([-1, 0, 1, 3, 31]),
    spread=st.sampled_from([1, 5, VOCAB]),
    seed=st.integers(0, 2**32 - 1),
)
def test_resamples(backend, scheme, n, gamma, lengths, blocks, rank, spread, seed):
    rng = np.random.default_rng(seed)
    texts = [rng.integers(0, spread, size=m) for m in lengths]
    block_length = min(lengths) if blocks else None
    problem = make_problem(scheme, n, gamma)
    if not fits(problem, texts, block_length):
        return
    packed = pack(texts, block_length)
    expected = null(problem, packed, 0, 32)
    assert np.array_equal(null(problem, packed, 0, 32, backend), expected)
    value = [np.sort(x)[rank] if rank >= 0 else x.min() - 1 for x in expected]
    hits, used = tally(backend, problem, packed, value, 99, 0, 32)
    assert hits.tolist() == [int((x <= v).sum()) for x, v in zip(expected, value, strict=True)]
    assert used.tolist() == [32] * len(texts)


def test_no_scheme_takes_anothers_numbers(backend):
    """As one would whose cost or alignment has a row in the tables, but no kernel."""
    packed = pack([np.arange(20)], None)
    resamples = Resamples(KEY, 0, 32)
    found = {
        (code, alignment): backend.null_values(
            Problem(code, alignment, 40, 9, VOCAB, VOCAB - 1), packed, 0, resamples, 1
        ).tolist()
        for code in range(len(COSTS))
        for alignment in sorted({SCHEMES[name].alignment.code for name in PAPER})
    }
    assert len(found) >= len(PAPER)
    assert all(a != b for a, b in combinations(found.values(), 2))
    for (code, alignment), values in found.items():
        if alignment == PLAIN:
            assert 20 * COSTS[code].least <= min(values) <= max(values) <= 20 * COSTS[code].most


@settings(examples, max_examples=20)
@given(problem=problems(max_length=12, low=-93_000, high=0), edits=st.booleans())
def test_the_statistic_is_the_definitions(backend, problem, edits):
    costs, inverse, k, gamma = problem
    n = costs.shape[1]
    alignment, gap = (EDIT, gamma) if edits else (PLAIN, 0)
    packed = pack([inverse], k)
    table = CostTable(costs, packed.distinct)
    most = np.full(1, NOTHING, np.int32)
    found = backend.observe(Problem(EXP, alignment, n, gap, VOCAB, 59), packed, table, most, 1)
    expected = naive.statistic(costs.tolist(), inverse, k, gamma if edits else None)
    assert (found.value[0], found.block[0], found.tau[0]) == expected


@settings(examples, max_examples=20)
@given(
    problem=problems(max_length=20, low=-93_000, high=0),
    edits=st.booleans(),
    extra=st.integers(0, 3),
)
def test_statistics_of_a_batch_up_to_a_limit(backend, problem, edits, extra):
    costs, inverse, k, gamma = problem
    n = costs.shape[1]
    alignment, gap = (EDIT, gamma) if edits else (PLAIN, 0)
    asked = Problem(EXP, alignment, n, gap, VOCAB, VOCAB - 1)
    packed = pack([inverse, np.arange(k) % 3, inverse[::-1].copy()], k)
    rng = np.random.default_rng(extra)
    costs = np.concatenate([costs, rng.integers(-5, 1, size=(3, n))]).astype(np.int32)
    table = CostTable(costs, rng.integers(0, len(costs), size=len(packed.distinct)))
    best = np.full(3, NOTHING, np.int32)
    expected = cpu.observe(asked, packed, table, best, 1)
    assert np.array_equal(backend.observe(asked, packed, table, best, 1), expected)
    best = expected.value - np.array([1, 0, 5], np.int32)  # only the second is small enough
    found = backend.observe(asked, packed, table, best, 1)
    assert np.array_equal(found, cpu.observe(asked, packed, table, best, 1))
    assert found.value.tolist() == [NOTHING, expected.value[1], NOTHING]


@pytest.mark.parametrize("scheme", SCHEME_NAMES)
@pytest.mark.parametrize(
    ("m", "block_length"), [(31, None), (32, None), (33, None), (65, 64), (129, None), (300, None)]
)
def test_lengths_around_strips(backend, scheme, m, block_length):
    """32, 64, 128 and 256 tokens are what a strip of a warp holds; longer texts take several."""
    text = np.random.default_rng(m).integers(0, VOCAB, size=m)
    problem = make_problem(scheme, 19, 2000)
    packed = pack([text], block_length)
    (expected,) = null(problem, packed, 0, 32)
    value = np.sort(expected)[[7]]
    found, _ = tally(backend, problem, packed, value, 99, 0, 32)
    assert found[0] == (expected <= value).sum()
    assert (null(problem, packed, 4, 7, backend)[0] == expected[4:7]).all()


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 15, 32, 61])
@pytest.mark.parametrize("gamma", [0, 777])
def test_texts_go_round_short_keys(backend, n, gamma):
    """A warp takes several columns of the key at once, and passes its end many times or at each place."""
    texts = [np.random.default_rng(m).integers(0, VOCAB, size=m) for m in (40, 71, 257)]
    problem = make_problem("exp-edit", n, gamma)
    packed = pack(texts, None)
    expected = null(problem, packed, 0, 32)
    assert np.array_equal(np.stack(null(problem, packed, 0, 3, backend)), np.stack(expected)[:, :3])
    value = [np.sort(x)[9] for x in expected]
    hits, _ = tally(backend, problem, packed, value, 99, 0, 32)
    assert hits.tolist() == [int((x <= v).sum()) for x, v in zip(expected, value, strict=True)]
    check_prefixes(backend, problem, 45, VOCAB, n, (0, 2))


@pytest.mark.parametrize("scheme", [s for s in SCHEME_NAMES if SCHEMES[s].alignment.gaps])
def test_a_long_key_takes_several_super_windows(backend, scheme):
    texts = [np.random.default_rng(m).integers(0, VOCAB, size=m) for m in (12, 25)]
    gamma = 26214 if COSTS[SCHEMES[scheme].cost.code].ranked else 0
    problem = make_problem(scheme, 300, gamma)
    packed = pack(texts, None)
    expected = null(problem, packed, 0, 64)
    value = [np.sort(x)[3] for x in expected]
    found = which(backend, problem, packed, value, 0, 64)
    assert (found == [x <= v for x, v in zip(expected, value, strict=True)]).all()


@pytest.mark.parametrize("scheme", SCHEME_NAMES)
def test_ranges_batches_and_texts_of_limit_0(backend, scheme):
    rng = np.random.default_rng(1)
    texts = [rng.integers(0, VOCAB, size=m) for m in (1, 7, 30, 12, 35, 2, 18)]
    problem = make_problem(scheme, 21, 1000)
    packed = pack(texts, None)
    value = [np.sort(x)[5] for x in null(problem, packed, 0, 32)]
    limit = np.array([99, 0, 99, 0, 99, 0, 99])
    whole = tally(cpu, problem, packed, value, limit, 32, 96)
    assert np.array_equal(tally(backend, problem, packed, value, limit, 32, 96), whole)
    parts = [tally(backend, problem, packed, value, limit, a, a + 32) for a in (32, 64)]
    assert np.array_equal(np.sum(parts, axis=0), whole)
    assert not np.any(tally(backend, problem, packed, value, 0, 0, 32))


@pytest.mark.parametrize("limit", [1, 2, 31, 32, 33, 10**6])
@pytest.mark.parametrize("stop", [33, 64, 129, 160])
def test_tally_stops_at_the_limit(backend, limit, stop):
    rng = np.random.default_rng(2)
    texts = [rng.integers(0, VOCAB, size=m) for m in (4, 11, 7)]
    problem = make_problem("exp", 12)
    packed = pack(texts, None)
    expected = null(problem, packed, 0, 160)
    value = [np.sort(x)[r] for x, r in zip(expected, (9, 80, 159), strict=True)]
    limits = [limit, limit, min(limit, 50)]
    hits, used = tally(backend, problem, packed, value, limits, 32, stop)
    for a, most in enumerate(limits):
        at = np.flatnonzero(expected[a][32:stop] <= value[a])
        full = len(at) >= most
        assert hits[a] == min(most, len(at))
        assert used[a] == (at[most - 1] + 1 if full else stop - 32)


def test_ranks_of_a_whole_vocabulary(backend):
    """Every rank is drawn in the end: repeats within a batch of draws, and from far back."""
    problem = make_problem("its", 5, vocab_size=77)
    packed = pack([np.random.default_rng(0).permutation(77)], None)
    assert np.array_equal(null(problem, packed, 0, 9, backend), null(problem, packed, 0, 9))


@settings(examples, max_examples=12)
@given(
    scheme=st.sampled_from(SCHEME_NAMES),
    n=st.sampled_from([1, 3, 16, 33]),
    m=st.integers(1, 40),
    gamma=st.sampled_from([0, 7, 2000]),
    spread=st.sampled_from([1, 6, VOCAB]),
    seed=st.integers(0, 2**32 - 1),
)
def test_prefixes(backend, scheme, n, m, gamma, spread, seed):
    check_prefixes(backend, make_problem(scheme, n, gamma), m, spread, seed, (2, 13))


def test_long_prefixes(backend):
    for scheme in ("exp", "its-edit"):
        # More resamples than a chunk has where memory is small ("beside").
        check_prefixes(backend, make_problem(scheme, 5, 3000), 270, VOCAB, 9, (2, 37))


def check_prefixes(backend, problem, m, spread, seed, resamples):
    text = np.random.default_rng(seed).integers(0, spread, size=m)
    packed = pack([text], None)
    costs = CostTable(cpu.exp_costs(KEY, packed.distinct, problem.n, 1), np.arange(packed.rows[0]))
    value = cpu.observe_prefixes(problem, packed, costs)
    assert (backend.observe_prefixes(problem, packed, costs) == value).all()
    some = Resamples(KEY, *resamples)
    expected = cpu.null_prefixes(problem, packed, some, 1)
    assert (backend.null_prefixes(problem, packed, some, 1) == expected).all()


@pytest.mark.parametrize("numbers", ["exp", "its"])
def test_samplers(backend, numbers):
    if getattr(backend, "_given", "cpu") is None:
        pytest.skip("a device's samplers take torch tensors: tests/test_cuda_device.py")
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(5, 700)).astype(np.float32) * 3
    logits[1, ::3] = -np.inf
    logits[2] = np.nan
    rows = np.array([0, 3, 1, 8, 3])
    if numbers == "exp":
        drawn = ExpNumbers(KEY, 1)
    else:
        words = rng.integers(0, 2**32, size=9, dtype=np.uint32)
        drawn = ItsNumbers(rng.permutation(700).astype(np.int32), words)
    out, expected = np.zeros((2, 5), np.int64)
    cpu.sampler(drawn)(logits, "float32", rows, 0.7, expected, 0)
    backend.sampler(drawn)(logits, "float32", rows, 0.7, out, 0)
    assert out.tolist() == expected.tolist()
    assert expected[2] == -1
    assert (expected[[0, 1, 3, 4]] >= 0).all()
