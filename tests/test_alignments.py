"""Plain and edit alignment, and the search for the least one, against the definitions."""

import naive
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import problems, wrapped

from wmcore.kernels.cpu import edit, path, plain, search
from wmcore.kernels.problem import EDIT, EXP, PLAIN, Problem

MOST = np.int32(2**31 - 1)


def plain_search(costs, n, inverse, k, best=MOST, decide=False):
    return plain.plain_search(costs, n, inverse, k, best, decide, np.empty(16, np.int32))


def edit_search(costs, n, inverse, k, gamma, best=MOST, decide=False):
    problem = Problem(EXP, EDIT, n, gamma, 100, 99)
    scratch = search.search_scratch(problem, costs.shape[0], k)
    return search.search(costs, problem, inverse, k, best, decide, scratch)


@settings(max_examples=150, deadline=None)
@given(problems())
def test_plain_alignment_equals_the_twin(problem):
    costs, inverse, k, _ = problem
    n = costs.shape[1]
    out = np.empty((len(inverse) - k + 1, n), np.int32)
    plain.plain_all(wrapped(costs), n, inverse, k, out)
    assert out.tolist() == naive.all_alignments(costs.tolist(), inverse, k, None)
    assert plain_search(wrapped(costs), n, inverse, k) == naive.statistic(
        costs.tolist(), inverse, k, None
    )


@settings(max_examples=100, deadline=None)
@given(problems(max_length=13))
def test_edit_alignment_equals_the_twin(problem):
    costs, inverse, k, gamma = problem
    n = costs.shape[1]
    out = np.empty((len(inverse) - k + 1, n), np.int32)
    row = np.empty(16 * (k + 1), np.int32)
    matrix = wrapped(costs, -2 * gamma)
    edit.edit_all(matrix, n, inverse, k, row, out)
    table = naive.all_alignments(costs.tolist(), inverse, k, gamma)
    assert (out + 2 * gamma * k).tolist() == table
    value, block, tau = edit_search(matrix, n, inverse, k, gamma)
    assert (value + 2 * gamma * k, block, tau) == naive.statistic(costs.tolist(), inverse, k, gamma)


@settings(max_examples=60, deadline=None)
@given(problems(max_length=13))
def test_all_windows_of_either_alignment(problem):
    costs, inverse, k, gamma = problem
    n = costs.shape[1]
    out = np.empty((len(inverse) - k + 1, n), np.int32)
    search.align_all(costs, Problem(EXP, EDIT, n, gamma, 100, 99), inverse, k, out)
    assert out.tolist() == naive.all_alignments(costs.tolist(), inverse, k, gamma)
    search.align_all(costs, Problem(EXP, PLAIN, n, 0, 100, 99), inverse, k, out)
    assert out.tolist() == naive.all_alignments(costs.tolist(), inverse, k, None)


@settings(max_examples=150, deadline=None)
@given(problems(max_length=40, sizes=[17, 100, 256, 257, 300, 530]))
def test_search_equals_aligning_everything(problem):
    costs, inverse, k, gamma = problem
    n = costs.shape[1]
    matrix = wrapped(costs, -2 * gamma)
    out = np.empty((len(inverse) - k + 1, n), np.int32)
    edit.edit_all(matrix, n, inverse, k, np.empty(16 * (k + 1), np.int32), out)
    least = out.min()
    first = np.unravel_index(out.argmin(), out.shape)
    assert edit_search(matrix, n, inverse, k, gamma) == (least, *first)
    for threshold in (least - 1, least, least + 1, out.max()):
        value, block, tau = edit_search(matrix, n, inverse, k, gamma, threshold, True)
        assert (block >= 0) == (least <= threshold)
        assert block < 0 or out[block, tau] == value <= threshold
    plain.plain_all(matrix, n, inverse, k, out)
    for threshold in (out.min() - 1, out.min(), out.max()):
        value, block, tau = plain_search(matrix, n, inverse, k, threshold, True)
        assert (block >= 0) == (out.min() <= threshold)
        assert block < 0 or out[block, tau] == value <= threshold


@settings(max_examples=100, deadline=None)
@given(problems(max_length=30, sizes=[3, 16, 40, 200]), st.integers(1, 40))
def test_super_window_bounds_hold(problem, span):
    costs, inverse, k, gamma = problem
    n = costs.shape[1]
    span = min(span, n)
    matrix = wrapped(costs, -2 * gamma)
    length = span + k - 1
    lanes = edit.interleaved_lanes(span, length)
    tree = np.empty((costs.shape[0] * span + 16) * lanes, np.int32)
    row = np.empty(16 * (length + 1), np.int32)
    edit.interleave(matrix, n, 3 % n, span, lanes, np.empty(16, np.int64), tree)
    copied = tree[: costs.shape[0] * span * lanes].reshape(-1, span, lanes)
    j = (3 % n + np.arange(lanes)[None, :] * span + np.arange(span)[:, None]) % n
    assert (copied == matrix[:, j]).all()
    edit.super_windows(tree, lanes, span, edit.Block(inverse, 0, k), gamma, row)
    out = np.empty((len(inverse) - k + 1, n), np.int32)
    edit.edit_all(matrix, n, inverse, k, np.empty(16 * (k + 1), np.int32), out)
    for lane in range(16):
        covered = (3 % n + lane * span + np.arange(span)) % n
        assert row[lane] <= out[0, covered].min()
        if span == 1 and gamma == 0:
            assert row[lane] == out[0, covered].min()


@settings(max_examples=60, deadline=None)
@given(problems(max_length=20), st.integers(0, 1000))
def test_path_costs_what_the_alignment_costs(problem, tau):
    costs, inverse, k, gamma = problem
    n = costs.shape[1]
    tau %= n
    rows = np.empty(k, np.int64)
    problem = Problem(EXP, EDIT, n, gamma, 100, 99)
    value = path.edit_path(costs, problem, inverse[:k], tau, rows)
    matrix = [[int(costs[i, (tau + j) % n]) for j in range(k)] for i in inverse[:k]]
    assert value == naive.edit_cost(matrix, gamma)
    met = np.flatnonzero(rows >= 0)
    total = sum(costs[inverse[i], rows[i]] for i in met) + 2 * gamma * (k - len(met))
    assert total == value
    if k <= n:  # rows go up, starting from tau and wrapping at most once
        steps = (rows[met] - tau) % n
        assert (np.diff(steps) > 0).all()
        assert (steps < k).all()


def test_memory_beside_the_block_is_never_read_as_costs():
    # One row, one token: every border of the kernels at once.
    costs = np.full((1, 1), 5, np.int32)
    assert edit_search(wrapped(costs), 1, np.zeros(1, np.int64), 1, 0) == (0, 0, 0)
    assert plain_search(wrapped(costs), 1, np.zeros(1, np.int64), 1) == (5, 0, 0)
