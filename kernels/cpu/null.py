"""The statistic of a text, and which resamples reach it: bounds for all, exact decisions where a bound leaves one open.

Statistics come and go as D, the alignment cost itself; searches work on E = D - 2 gamma k (see `edit.py`). Resamples
are counted in groups of 32; bit l of a mask is resample 32 group + l.
"""

from typing import NamedTuple

import numpy as np

from ..problem import EDIT
from .bound import bound_edit, bound_plain, undecided
from .costs import wrap
from .edit import Block
from .jit import njit
from .memory import aligned_i16
from .resample import make_bounds, make_pair, resample_scratch
from .search import search, search_scratch


@njit(nogil=True)
def _largest(texts, members):
    """(the most distinct tokens, the longest block) of some texts."""
    rows = np.int64(1)
    longest = np.int64(1)
    for a in members:
        rows = max(rows, texts.distinct_offsets[a + 1] - texts.distinct_offsets[a])
        longest = max(longest, texts.k[a])
    return rows, longest


@njit(nogil=True)
def _tokens(texts, a):
    """Text a as numbers of its distinct tokens: int64 [m]."""
    return texts.inverse[texts.offsets[a] : texts.offsets[a + 1]]


@njit(nogil=True)
def _without_gaps(value, problem, k):
    """E of a statistic D, or the least int32 where it lies below."""
    return np.int32(max(np.int64(value) - 2 * problem.gamma * k, -(2**31)))


class Bounds(NamedTuple):
    """Texts that are bounded alike, and what their bounds are compared with, in units of 2**shift (see `bound.py`).

    members: int64 [A]; shift: int; threshold, drift: int64 [N]; windows: int64 [N], how many are bounded at a time.
    """

    members: np.ndarray
    shift: int
    threshold: np.ndarray
    drift: np.ndarray
    windows: np.ndarray


@njit(nogil=True, cache=True)
def bound_groups(problem, texts, bounds, seed_key, groups, out):
    """out[a, group - base] = mask of the resamples that may reach the threshold, for the member texts.

    groups: (first, last, base); out: uint32 [N, >= last - base].
    """
    first_group, last_group, base = groups
    n_rows, longest = _largest(texts, bounds.members)
    n, edits = problem.n, problem.alignment == EDIT
    costs = aligned_i16(n_rows * n * 32)
    row = aligned_i16(32 * (n + longest) if edits else 32)
    seen = np.zeros(problem.vocab_size + 1, np.int32)
    for group in range(first_group, last_group):
        make_bounds(seed_key, problem, group, n_rows, bounds.shift, seen, costs)
        for a in bounds.members:
            k, drift = texts.k[a], bounds.drift[a]
            windows = bounds.windows[a] if edits else n
            mask = np.int64(0)
            for first in range(texts.offsets[a], texts.offsets[a + 1] - k + 1):
                block = Block(texts.inverse, first, k)
                for tau in range(0, n, windows):
                    if mask == 0xFFFFFFFF:
                        break
                    if edits:
                        part = (tau, min(windows, n - tau))
                        best, lowest = bound_edit(
                            costs, problem, block, bounds.shift, drift, part, row
                        )
                    else:
                        best, lowest = bound_plain(costs, n, block, drift)
                    mask |= undecided(best, lowest, bounds.threshold[a])
            out[a, group - base] = mask


class Open(NamedTuple):
    """Resamples that bounds have left open, from group `base` on.

    masks: uint32 [N, groups]; jobs: int64 [J, 3], (text, first group, last group), counted from base.
    """

    base: int
    masks: np.ndarray
    jobs: np.ndarray


@njit(nogil=True, cache=True)
def decide_groups(problem, texts, value, limit, seed_key, left, hits):
    """hits[a, t] = 1 for every open resample whose statistic is <= value[a], exactly.

    value: int32 [N]; limit: int64 [N]; left: `Open`; hits: uint8 [N, 32 groups]. Within a job resamples are decided
    in order and the rest is left out once limit[a] of them are hits.
    """
    jobs = left.jobs
    n_rows, longest = _largest(texts, jobs[:, 0])
    resampled = resample_scratch(problem, n_rows)
    scratch = search_scratch(problem, n_rows, longest)
    for job in range(jobs.shape[0]):
        a = jobs[job, 0]
        rows = texts.distinct_offsets[a + 1] - texts.distinct_offsets[a]
        text, k = _tokens(texts, a), texts.k[a]
        threshold = _without_gaps(value[a], problem, k)
        found = 0
        for pair in range(16 * jobs[job, 1], 16 * jobs[job, 2]):
            bits = (left.masks[a, pair // 16] >> (2 * (pair % 16))) & 3
            if bits == 0 or found >= limit[a]:
                continue
            both = make_pair(seed_key, problem, 16 * left.base + pair, rows, resampled)
            for half in range(2):
                if not bits & (1 << half):
                    continue
                costs = both[half, :rows]
                if search(costs, problem, text, k, threshold, True, scratch)[1] >= 0:
                    hits[a, 2 * pair + half] = 1
                    found += 1


@njit(nogil=True, cache=True)
def tally(found, limit, count, hits, used):
    """hits[a], used[a] of the first `count` columns of found (uint8 [N, >= count]), up to limit[a] hits."""
    for a in range(limit.size):
        t = 0
        while t < count and hits[a] < limit[a]:
            hits[a] += found[a, t]
            t += 1
        used[a] = t


@njit(nogil=True, cache=True)
def null_values(problem, texts, a, resamples, out):
    """out[t - first] = the statistic of text a under resample t, exactly: int32. resamples: `Resamples`."""
    seed_key, first, stop = resamples
    rows = texts.distinct_offsets[a + 1] - texts.distinct_offsets[a]
    text, k = _tokens(texts, a), texts.k[a]
    resampled = resample_scratch(problem, rows)
    scratch = search_scratch(problem, rows, k)
    most = np.int32(2**31 - 1)
    for pair in range(first // 2, (stop + 1) // 2):
        both = make_pair(seed_key, problem, pair, rows, resampled)
        for half in range(2):
            t = 2 * pair + half
            if first <= t < stop:
                found = search(both[half], problem, text, k, most, False, scratch)[0]
                out[t - first] = found + 2 * problem.gamma * k


@njit(nogil=True, cache=True)
def observe(problem, texts, members, costs, best, fits):
    """Fill fits for the member texts (int64): the statistic and where it is (first block, then window).

    costs: `CostTable`, on the host; best: int32 [N]: a text whose statistic exceeds it is left as it is.
    """
    n_rows, longest = _largest(texts, members)
    n = problem.n
    matrix = np.empty((n_rows, n + 16), np.int32)
    scratch = search_scratch(problem, n_rows, longest)
    for a in members:
        first = texts.distinct_offsets[a]
        count = texts.distinct_offsets[a + 1] - first
        for i in range(count):
            row = costs.source[first + i]
            for j in range(n):
                matrix[i, j] = costs.matrix[row, j] - 2 * problem.gamma
        wrap(n, matrix[:count])
        k = texts.k[a]
        most = _without_gaps(best[a], problem, k)
        found = search(matrix[:count], problem, _tokens(texts, a), k, most, False, scratch)
        if found[1] >= 0:
            fits.value[a] = found[0] + 2 * problem.gamma * k
            fits.block[a] = found[1]
            fits.stop[a] = found[1] + k
            fits.tau[a] = found[2]
