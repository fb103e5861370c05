"""Resampled keys and the count of those that fit: every shortcut gives the count of brute force."""

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmcore.kernels import cpu
from wmcore.kernels.cpu import align, bound, edit, resample
from wmcore.kernels.packing import Problem, distinct_tokens, pack

SEED_KEY = np.arange(1, 9, dtype=np.uint32) * np.uint32(0x9E3779B1)
VOCAB = 60
SCHEMES = ["exp", "exp-edit", "its", "its-edit"]


def make_problem(scheme, n, gamma=0, denominator=VOCAB - 1):
    its, edits = scheme.startswith("its"), scheme.endswith("edit")
    return Problem(its, edits, n, gamma if edits else 0, VOCAB, denominator)


def pair_costs(problem, pair, n_rows, offset=0):
    """int32 [2, n_rows, >= n + 16]: the exact costs of two resamples."""
    n = problem.n
    out = np.empty((2, n_rows, n + (n + 15) // 16 + 32), np.int32)
    if problem.its:
        resample.its_pair(
            SEED_KEY,
            pair,
            n_rows,
            n,
            problem.vocab_size,
            problem.denominator,
            offset,
            np.zeros(problem.vocab_size + 1, np.int32),
            np.empty((2, n), np.int32),
            np.empty(n_rows, np.int32),
            out[0],
            out[1],
        )
    else:
        resample.exp_pair(SEED_KEY, pair, n_rows, n, offset, out[0], out[1])
    return out


def null_statistics(problem, text, k, count):
    """Statistics (as `observe` gives them) of resamples 0 .. count - 1: every window aligned, nothing skipped."""
    distinct, inverse = distinct_tokens(text)
    values = []
    out = np.empty((len(text) - k + 1, problem.n), np.int32)
    for pair in range((count + 1) // 2):
        for costs in pair_costs(problem, pair, len(distinct), problem.offset):
            if problem.edits:
                row = np.empty(16 * (k + 1), np.int32)
                edit.edit_all(costs, problem.n, inverse, k, row, out)
            else:
                align.align_all(costs, problem.n, inverse, k, out)
            values.append(out.min())
    return np.array(values[:count])


def hits(problem, texts, block_length, value, first, last, limit=10**9, threads=2):
    packed = pack(texts, block_length)
    count = len(texts)
    return cpu.hits(
        problem,
        packed,
        np.asarray(value, np.int32),
        np.arange(count),
        np.full(count, limit),
        SEED_KEY,
        first,
        last,
        threads,
    )


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
    scheme=st.sampled_from(SCHEMES),
    n=st.sampled_from([1, 16, 21, 40]),
    n_rows=st.integers(1, 4),
    gamma=st.sampled_from([0, 1, 3000, 26214, 200_000]),
    shift=st.integers(5, 12),
    group=st.sampled_from([0, 3, 2**20]),
)
def test_int16_costs_bound_the_exact_ones(scheme, n, n_rows, gamma, shift, group):
    problem = make_problem(scheme, n, gamma)
    shift = max(shift, problem.shift(1))
    out = np.empty(n_rows * n * 32, np.int16)
    if problem.its:
        seen = np.zeros(VOCAB + 1, np.int32)
        resample.its_bounds(
            SEED_KEY,
            group,
            n_rows,
            n,
            VOCAB,
            problem.denominator,
            shift,
            -problem.offset,
            seen,
            out,
        )
    else:
        terms = resample.exp_bound_terms(shift, problem.offset)
        resample.exp_bounds(SEED_KEY, group, n_rows, n, terms, out)
    bounds = out.reshape(n_rows, n, 32).astype(np.int64)
    exact = np.stack(
        [pair_costs(problem, 16 * group + p, n_rows, problem.offset)[:, :, :n] for p in range(16)]
    )
    exact = exact.reshape(32, n_rows, n).transpose(1, 2, 0) / 2.0**shift
    assert (bounds <= exact).all()
    # Not vacuous: within rounding (two units), the quadratic's 0.0069 nats and the 16 bits not looked at.
    slack = 4 if problem.its else 3 + 40 * 2.0 ** (12 - shift)
    likely = exact - problem.offset / 2.0**shift > -9 * 4096 / 2.0**shift
    assert (exact - bounds)[likely].max() <= slack


def test_exp_bound_holds_for_every_high_half():
    # All 65,536 high halves, through the same two kernels: the least cost of a high half has all low bits set.
    from numba import njit

    from wmcore.kernels.cpu import costs as cost_kernels
    from wmcore.kernels.cpu.simd import load_i32, store

    @njit
    def bounds_of(high, terms, out):
        for first in range(0, high.size, 16):
            store(out, first, resample._exp_bound_16(load_i32(high, first), terms))

    high = np.arange(65536, dtype=np.int32)
    exact = np.empty(65536, np.int32)
    cost_kernels.exp_words_to_costs((high.astype(np.uint32) << 16) | np.uint32(0xFFFF), exact)
    for shift in range(2, 14):
        for offset in (0, -2 * 1638):
            out = np.empty(65536, np.int32)
            bounds_of(high, resample.exp_bound_terms(shift, offset), out)
            assert (out <= (exact + offset) / 2.0**shift).all()


@settings(max_examples=60, deadline=None)
@given(
    scheme=st.sampled_from(SCHEMES),
    n=st.sampled_from([1, 2, 15, 16, 17, 40, 300]),
    gamma=st.sampled_from([0, 1, 400, 3000, 26214, 10**6, 10**9]),
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    blocks=st.booleans(),
    rank=st.sampled_from([-1, 0, 1, 3, 30, 63]),
    spread=st.sampled_from([1, 5, VOCAB]),
    seed=st.integers(0, 2**32 - 1),
)
def test_hits_equal_brute_force(scheme, n, gamma, lengths, blocks, rank, spread, seed):
    rng = np.random.default_rng(seed)
    texts = [rng.integers(0, spread, size=m) for m in lengths]
    block_length = min(lengths) if blocks else None
    problem = make_problem(scheme, n, gamma)
    if any(
        problem.gamma > problem.largest_gamma(block_length or m)
        and not problem.gaps_useless(block_length or m)
        for m in lengths
    ):
        return
    null = []
    for text in texts:
        k = block_length or len(text)
        if problem.edits and problem.gaps_useless(k):  # then the statistic is the plain one
            null.append(null_statistics(make_problem(scheme[:3], n), text, k, 64))
        else:
            null.append(null_statistics(problem, text, k, 64))
    # The observed value: below all null statistics, equal to one of them (a tie), or above all.
    value = [np.sort(x)[rank] if rank >= 0 else x.min() - 1 for x in null]
    found = hits(problem, texts, block_length, value, 0, 64)
    assert (found == [x <= v for x, v in zip(null, value, strict=True)]).all()


@pytest.mark.parametrize("windows", [1, 7, 16, 40])
@pytest.mark.parametrize("scheme", ["exp-edit", "its-edit"])
def test_keys_bounded_in_pieces_give_the_same_hits(monkeypatch, scheme, windows):
    rng = np.random.default_rng(6)
    texts = [rng.integers(0, VOCAB, size=m) for m in (3, 17, 45)]
    problem = make_problem(scheme, 40, 900)
    null = [null_statistics(problem, text, len(text), 64) for text in texts]
    monkeypatch.setattr(Problem, "windows", lambda self, k: windows)
    for rank in (0, 5, 40):
        value = [np.sort(x)[rank] for x in null]
        found = hits(problem, texts, None, value, 0, 64)
        assert (found == [x <= v for x, v in zip(null, value, strict=True)]).all()


def test_windows_cover_the_key():
    for n in (1, 63, 64, 127, 128, 4096, 5000):
        problem = make_problem("exp-edit", n)
        for k in (1, 200, 300, 1000, 8192):
            windows = problem.windows(k)
            assert 1 <= windows <= n
            assert windows == n or windows >= max(64, k)


def test_a_useless_gap_gives_the_plain_statistic():
    rng = np.random.default_rng(0)
    text = rng.integers(0, 5, size=12)
    for scheme in ("exp-edit", "its-edit"):
        problem = make_problem(scheme, 20)
        gamma = (12 * problem.largest_cost + 1) // 2
        with_gaps = make_problem(scheme, 20, gamma)
        assert with_gaps.gaps_useless(12)
        plain = null_statistics(make_problem(scheme[:3], 20), text, 12, 32)
        edits = null_statistics(with_gaps, text, 12, 32) + 2 * gamma * 12
        assert (plain == edits).all()


def test_saturated_bounds_stay_open():
    # A key that fits far better than int16 holds: the bound must not be trusted, whatever the threshold.
    n, m = 16, 40
    costs = np.full(m * n * 32, -2000, np.int16)
    row = np.empty(32 * (n + m), np.int16)
    from numba import njit

    @njit
    def edit_mask(costs, n, inverse, k, drift, row, threshold):
        best, lowest = bound.edit_bound(costs, n, inverse, 0, k, 0, 6, drift, 0, n, row)
        return bound.undecided(best, lowest, threshold)

    @njit
    def align_mask(costs, n, inverse, k, drift, row, threshold):
        best, lowest = bound.align_bound(costs, n, inverse, 0, k, drift, row)
        return bound.undecided(best, lowest, threshold)

    inverse = np.arange(m)
    for mask in (edit_mask, align_mask):
        assert mask(costs, n, inverse, m, 0, row, -32000) == 0xFFFFFFFF
        assert mask(costs, n, inverse, m, 1500, row, -32000) == 0
        assert mask(costs, n, inverse, m, 1999, row, -41) == 0  # bound exactly -40
        assert mask(costs, n, inverse, m, 1999, row, -40) == 0xFFFFFFFF


@pytest.mark.parametrize("scheme", SCHEMES)
def test_threads_ranges_and_batches_do_not_matter(scheme):
    rng = np.random.default_rng(1)
    texts = [rng.integers(0, VOCAB, size=m) for m in (1, 7, 30, 30, 55, 2, 18, 41, 12)]
    problem = make_problem(scheme, 40, 1000)
    value = [np.sort(null_statistics(problem, text, len(text), 64))[9] for text in texts]
    whole = hits(problem, texts, None, value, 0, 128)
    assert (whole[:, :64].sum(axis=1) >= 10).all()
    for threads in (1, 3):
        assert (hits(problem, texts, None, value, 0, 128, threads=threads) == whole).all()
    pieces = [hits(problem, texts, None, value, a, a + 32) for a in range(0, 128, 32)]
    assert (np.concatenate(pieces, axis=1) == whole).all()
    alone = [hits(problem, [t], None, [v], 0, 128)[0] for t, v in zip(texts, value, strict=True)]
    assert (alone == whole).all()


def test_a_limit_keeps_the_first_hits():
    rng = np.random.default_rng(2)
    texts = [rng.integers(0, VOCAB, size=m) for m in (5, 9, 14)]
    problem = make_problem("exp-edit", 24)
    value = [np.sort(null_statistics(problem, text, len(text), 64))[30] for text in texts]
    whole = hits(problem, texts, None, value, 0, 64)
    for threads in (1, 4):
        some = hits(problem, texts, None, value, 0, 64, limit=7, threads=threads)
        for row, full in zip(some, whole, strict=True):
            last = np.flatnonzero(full)[6]
            assert (row[: last + 1] == full[: last + 1]).all()


@pytest.mark.parametrize("limit", [1, 3, 17, 1000])
@pytest.mark.parametrize("stop", [32, 33, 63, 90])
def test_tally_counts_in_order_up_to_the_limit(limit, stop):
    rng = np.random.default_rng(4)
    texts = [rng.integers(0, VOCAB, size=m) for m in (5, 9, 14)]
    problem = make_problem("exp-edit", 24)
    packed = pack(texts, None)
    null = [null_statistics(problem, text, len(text), 96) for text in texts]
    value = np.array([np.sort(x)[30] for x in null], np.int32)
    active = np.array([0, 2])
    found, used = cpu.tally(
        problem, packed, value, active, np.full(3, limit), SEED_KEY, 32, stop, 2
    )
    assert (found[1], used[1]) == (0, 0)
    for a in active:
        row = null[a][32:stop] <= value[a]
        at = np.flatnonzero(row)
        full = len(at) >= limit
        assert found[a] == (limit if full else len(at))
        assert used[a] == (at[limit - 1] + 1 if full else stop - 32)


def test_inactive_texts_are_not_looked_at():
    texts = [np.arange(5), np.arange(6)]
    packed = pack(texts, None)
    problem = make_problem("exp", 8)
    value = np.full(2, 2**30, np.int32)
    found = cpu.hits(problem, packed, value, np.array([1]), np.full(2, 99), SEED_KEY, 0, 32, 1)
    assert found.sum(axis=1).tolist() == [0, 32]


def test_texts_too_large_for_bounds_are_decided_all_the_same(monkeypatch):
    rng = np.random.default_rng(3)
    texts = [rng.integers(0, VOCAB, size=m) for m in (5, 40)]
    for scheme in SCHEMES:
        problem = make_problem(scheme, 40, 1000)
        value = [np.sort(null_statistics(problem, text, len(text), 64))[9] for text in texts]
        whole = hits(problem, texts, None, value, 0, 64)
        with monkeypatch.context() as patch:
            patch.setattr(cpu, "_BOUND_BYTES", 20 * 40 * 64)
            assert (hits(problem, texts, None, value, 0, 64) == whole).all()
