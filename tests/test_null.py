"""The count of resampled keys that fit: every shortcut gives the count of brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import PAPER, SEED_KEY, VOCAB, make_problem, pair_costs

from wmcore.kernels import load
from wmcore.kernels.cpu import backend as cpu_backend
from wmcore.kernels.cpu import bound, edit, plain
from wmcore.kernels.problem import (
    EDIT,
    Problem,
    Resamples,
    block_error,
    distinct_tokens,
    pack,
)
from wmcore.schemes import SCHEMES

EDITS = [name for name in PAPER if SCHEMES[name].alignment.gaps]
cpu = load("cpu")


def without_edits(scheme):
    """The scheme of the same cost, aligned without edits."""
    cost = SCHEMES[scheme].cost
    return next(n for n, s in SCHEMES.items() if s.cost is cost and not s.alignment.gaps)


def null_statistics(problem, text, k, count):
    """Statistics of resamples 0 .. count - 1: every window aligned, nothing skipped."""
    distinct, inverse = distinct_tokens(text)
    values = []
    out = np.empty((len(text) - k + 1, problem.n), np.int32)
    for pair in range((count + 1) // 2):
        for matrix in pair_costs(problem, pair, len(distinct)):
            if problem.alignment == EDIT:
                row = np.empty(16 * (k + 1), np.int32)
                edit.edit_all(matrix, problem.n, inverse, k, row, out)
            else:
                plain.plain_all(matrix, problem.n, inverse, k, out)
            values.append(out.min() + 2 * problem.gamma * k)
    return np.array(values[:count])


def hits(problem, texts, block_length, value, first, last, limit=10**9, threads=2):
    """bool [N, last - first]: which resamples fit, counted one by one."""
    found = []
    tally(problem, texts, block_length, value, first, last, limit, threads, found)
    return found[0]


def tally(problem, texts, block_length, value, first, last, limit=10**9, threads=2, found=None):
    """(hits, used) of `Backend.tally`; `found` gets the matrix of hits that was counted."""
    packed = pack(texts, block_length)
    counted = cpu_backend._null.tally

    def count(matrix, *rest):
        if found is not None:
            found.append(matrix)
        counted(matrix, *rest)

    value = np.asarray(value, np.int32)
    limit = np.broadcast_to(np.asarray(limit, np.int64), len(value)).copy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_backend._null, "tally", count)
        return cpu.tally(problem, packed, value, limit, Resamples(SEED_KEY, first, last), threads)


@given(
    texts=st.lists(
        st.lists(st.integers(0, 5) | st.integers(0, 2**31), min_size=2), min_size=1, max_size=5
    ),
    block_length=st.sampled_from([None, 2]),
)
def test_texts_are_packed_as_if_each_were_alone(texts, block_length):
    packed = pack([np.array(text, np.int64) for text in texts], block_length)
    assert all(part.dtype == np.int64 for part in packed)
    assert packed.k.tolist() == [block_length or len(text) for text in texts]
    for a, text in enumerate(texts):
        distinct = list(dict.fromkeys(text))  # in order of first occurrence
        mine = packed.distinct[packed.distinct_offsets[a] : packed.distinct_offsets[a + 1]]
        assert mine.tolist() == distinct
        inverse = packed.inverse[packed.offsets[a] : packed.offsets[a + 1]]
        assert inverse.tolist() == [distinct.index(token) for token in text]
    assert (packed.offsets[-1], packed.distinct_offsets[-1]) == (
        len(packed.inverse),
        len(packed.distinct),
    )


@settings(max_examples=60, deadline=None)
@given(
    scheme=st.sampled_from(sorted(PAPER)),
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
    if any(block_error(problem, m, block_length or m) for m in lengths):
        return
    null = []
    for text in texts:
        k = block_length or len(text)
        null.append(null_statistics(problem.of_block(k), text, k, 64))
    # The observed value: below all null statistics, equal to one of them (a tie), or above all.
    value = [np.sort(x)[rank] if rank >= 0 else x.min() - 1 for x in null]
    found = hits(problem, texts, block_length, value, 0, 64)
    assert (found == [x <= v for x, v in zip(null, value, strict=True)]).all()


@pytest.mark.parametrize("windows", [1, 7, 16, 40])
@pytest.mark.parametrize("scheme", EDITS)
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
    for scheme in EDITS:
        problem = make_problem(scheme, 20)
        gamma = (12 * problem.span + 1) // 2
        with_gaps = make_problem(scheme, 20, gamma)
        assert with_gaps.gaps_useless(12)
        aligned = null_statistics(make_problem(without_edits(scheme), 20), text, 12, 32)
        assert (aligned == null_statistics(with_gaps, text, 12, 32)).all()
        assert with_gaps.of_block(12) == make_problem(without_edits(scheme), 20)


def test_saturated_bounds_stay_open():
    # A key that fits far better than int16 holds: the bound must not be trusted, whatever the threshold.
    n, m = 16, 40
    costs = np.full(m * n * 32, -2000, np.int16)
    row = np.empty(32 * (n + m), np.int16)
    problem = make_problem("exp-edit", n)
    from numba import njit

    @njit
    def edit_mask(costs, n, inverse, k, drift, row, threshold):
        block = edit.Block(inverse, 0, k)
        best, lowest = bound.bound_edit(costs, problem, block, 6, drift, (0, n), row)
        return bound.undecided(best, lowest, threshold)

    @njit
    def align_mask(costs, n, inverse, k, drift, row, threshold):
        best, lowest = bound.bound_plain(costs, n, edit.Block(inverse, 0, k), drift)
        return bound.undecided(best, lowest, threshold)

    inverse = np.arange(m)
    for mask in (edit_mask, align_mask):
        assert mask(costs, n, inverse, m, 0, row, -32000) == 0xFFFFFFFF
        assert mask(costs, n, inverse, m, 1500, row, -32000) == 0
        assert mask(costs, n, inverse, m, 1999, row, -41) == 0  # bound exactly -40
        assert mask(costs, n, inverse, m, 1999, row, -40) == 0xFFFFFFFF


@pytest.mark.parametrize("scheme", PAPER)
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
    null = [null_statistics(problem, text, len(text), 96) for text in texts]
    value = [np.sort(x)[30] for x in null]
    found, used = tally(problem, texts, None, value, 32, stop, [limit, 0, limit])
    assert (found[1], used[1]) == (0, 0)
    for a in (0, 2):
        row = null[a][32:stop] <= value[a]
        at = np.flatnonzero(row)
        full = len(at) >= limit
        assert found[a] == (limit if full else len(at))
        assert used[a] == (at[limit - 1] + 1 if full else stop - 32)


def test_texts_of_limit_0_are_not_looked_at():
    texts = [np.arange(5), np.arange(6)]
    found, used = tally(make_problem("exp", 8), texts, None, [2**30] * 2, 0, 32, [0, 99])
    assert found.tolist() == used.tolist() == [0, 32]


def test_texts_too_large_for_bounds_are_decided_all_the_same(monkeypatch):
    rng = np.random.default_rng(3)
    texts = [rng.integers(0, VOCAB, size=m) for m in (5, 40)]
    for scheme in PAPER:
        problem = make_problem(scheme, 40, 1000)
        value = [np.sort(null_statistics(problem, text, len(text), 64))[9] for text in texts]
        whole = hits(problem, texts, None, value, 0, 64)
        with monkeypatch.context() as patch:
            patch.setattr(cpu_backend, "BOUND_BYTES", 20 * 40 * 64)
            assert (hits(problem, texts, None, value, 0, 64) == whole).all()
