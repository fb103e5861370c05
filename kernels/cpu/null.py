"""Which resamples reach a text's statistic? Bounds for all of them, an exact decision where a bound leaves one open.

Texts are packed: text a has the rows inverse[offsets[a] : offsets[a + 1]] (its i-th token is its inverse[i]-th
distinct token), rows[a] distinct tokens, block length k[a] and the observed value[a] (E of `edit.py`, or the
plain cost). Resamples are counted in groups of 32; bit l of a mask is resample 32 group + l.
"""

import numpy as np
from numba import njit

from .align import align_search
from .bound import align_bound, edit_bound, undecided
from .costs import wrap
from .resample import exp_bound_terms, exp_bounds, its_bounds, make_pair, pair_scratch
from .search import edit_scratch, edit_search


@njit(nogil=True)
def _aligned(size):
    """int16 [size] that starts on a cache line: SIMD loads of it never cross one."""
    memory = np.empty(size + 32, np.int16)
    skip = (-memory.ctypes.data % 64) // 2
    return memory[skip : skip + size]


@njit(nogil=True, cache=True)
def bound_groups(
    seed_key,
    its,
    edits,
    n,
    gamma,
    vocab_size,
    denominator,
    shift,
    first_group,
    last_group,
    base_group,
    inverse,
    offsets,
    rows,
    k,
    threshold,
    drift,
    windows,
    texts,
    out,
):
    """out[a, group - base_group] = mask of the resamples that may reach the threshold, a in texts (int64).

    seed_key: uint32 [8]; threshold, drift: int64 [texts], in units of 2**shift (see `edit_bound`);
    windows: int64 [texts], how many are bounded at a time (edits); out: uint32 [texts, >= last_group - base_group].
    """
    n_rows = 1
    longest = 1
    for a in texts:
        n_rows = max(n_rows, rows[a])
        longest = max(longest, k[a])
    costs = _aligned(n_rows * n * 32)
    row = _aligned(32 * (n + longest) if edits else 32)
    seen = np.zeros(vocab_size + 1 if its else 1, np.int32)
    offset = -2 * gamma if edits else 0
    terms = exp_bound_terms(shift, offset)
    for group in range(first_group, last_group):
        if its:
            its_bounds(
                seed_key, group, n_rows, n, vocab_size, denominator, shift, -offset, seen, costs
            )
        else:
            exp_bounds(seed_key, group, n_rows, n, terms, costs)
        for a in texts:
            mask = np.int64(0)
            for first in range(offsets[a], offsets[a + 1] - k[a] + 1):
                for tau in range(0, n, windows[a] if edits else n):
                    if mask == 0xFFFFFFFF:
                        break
                    if edits:
                        best, lowest = edit_bound(
                            costs,
                            n,
                            inverse,
                            first,
                            k[a],
                            gamma,
                            shift,
                            drift[a],
                            tau,
                            min(windows[a], n - tau),
                            row,
                        )
                    else:
                        best, lowest = align_bound(costs, n, inverse, first, k[a], drift[a], row)
                    mask |= undecided(best, lowest, threshold[a])
            out[a, group - base_group] = mask


@njit(nogil=True, cache=True)
def decide_groups(
    seed_key,
    its,
    edits,
    n,
    gamma,
    vocab_size,
    denominator,
    jobs,
    base_group,
    open_masks,
    inverse,
    offsets,
    rows,
    k,
    value,
    limit,
    hits,
):
    """hits[a, t] = 1 for every open resample whose statistic is <= value[a], exactly.

    jobs: int64 [J, 3]: (text, first group, last group), counted from base_group like the columns of open_masks
    (uint32 [texts, groups]) and hits (uint8 [texts, 32 groups]). Within a job resamples are decided in order and
    the rest is left out once limit[a] of them are hits. value: int32 [texts]; limit: int64 [texts].
    """
    n_rows = 1
    longest = 1
    for job in range(jobs.shape[0]):
        n_rows = max(n_rows, rows[jobs[job, 0]])
        longest = max(longest, k[jobs[job, 0]])
    resampled = pair_scratch(its, n_rows, n, vocab_size)
    scratch = edit_scratch(n_rows if edits else 1, n if edits else 1, longest)
    offset = -2 * gamma if edits else 0
    for job in range(jobs.shape[0]):
        a = jobs[job, 0]
        text = inverse[offsets[a] : offsets[a + 1]]
        found = 0
        for pair in range(16 * jobs[job, 1], 16 * jobs[job, 2]):
            bits = (open_masks[a, pair // 16] >> (2 * (pair % 16))) & 3
            if bits == 0 or found >= limit[a]:
                continue
            both = make_pair(
                seed_key,
                its,
                16 * base_group + pair,
                rows[a],
                n,
                vocab_size,
                denominator,
                offset,
                resampled,
            )
            for half in range(2):
                if not bits & (1 << half):
                    continue
                costs = both[half, : rows[a]]
                if edits:
                    block = edit_search(costs, n, text, k[a], gamma, value[a], True, scratch)[1]
                else:
                    block = align_search(costs, n, text, k[a], value[a], True, scratch[0])[1]
                if block >= 0:
                    hits[a, 2 * pair + half] = 1
                    found += 1


@njit(nogil=True, cache=True)
def tally(found, active, limit, count, hits, used):
    """hits[a], used[a] of the first `count` columns of found (uint8 [texts, >= count]), up to limit[a] hits."""
    for a in active:
        t = 0
        while t < count and hits[a] < limit[a]:
            hits[a] += found[a, t]
            t += 1
        used[a] = t


@njit(nogil=True, cache=True)
def null_values(
    seed_key,
    its,
    edits,
    n,
    gamma,
    vocab_size,
    denominator,
    text,
    n_rows,
    k,
    first,
    last,
    out,
):
    """out[t - first] = the statistic of one text under resample t, exactly: int32. text: inverse, int64 [m]."""
    resampled = pair_scratch(its, n_rows, n, vocab_size)
    scratch = edit_scratch(n_rows if edits else 1, n if edits else 1, k)
    offset = -2 * gamma if edits else 0
    most = np.int32(2**31 - 1)
    for pair in range(first // 2, (last + 1) // 2):
        both = make_pair(seed_key, its, pair, n_rows, n, vocab_size, denominator, offset, resampled)
        for half in range(2):
            t = 2 * pair + half
            if first <= t < last:
                if edits:
                    found = edit_search(both[half], n, text, k, gamma, most, False, scratch)[0]
                else:
                    found = align_search(both[half], n, text, k, most, False, scratch[0])[0]
                out[t - first] = found


@njit(nogil=True, cache=True)
def observe(
    costs,
    source,
    edits,
    n,
    gamma,
    texts,
    inverse,
    offsets,
    distinct_offsets,
    k,
    best,
    value,
    block,
    tau,
):
    """value, block, tau [a] = the statistic of each text a in texts and where it is (first block, then window).

    If it exceeds best[a] (int32 [all texts]), value is 2**31 - 1, and block and tau are -1.

    costs: int32 [R, >= n], one key's; source: int64, the row of costs of each distinct token (packed like the
    distinct tokens); edits: bool [all texts].
    """
    n_rows = 1
    longest = 1
    for a in texts:
        n_rows = max(n_rows, distinct_offsets[a + 1] - distinct_offsets[a])
        longest = max(longest, k[a])
    matrix = np.empty((n_rows, n + 16), np.int32)
    scratch = edit_scratch(n_rows, n, longest)
    for a in texts:
        first = distinct_offsets[a]
        count = distinct_offsets[a + 1] - first
        offset = -2 * gamma if edits[a] else 0
        for i in range(count):
            row = source[first + i]
            for j in range(n):
                matrix[i, j] = costs[row, j] + offset
        wrap(n, matrix[:count])
        text = inverse[offsets[a] : offsets[a + 1]]
        if edits[a]:
            found = edit_search(matrix[:count], n, text, k[a], gamma, best[a], False, scratch)
        else:
            found = align_search(matrix[:count], n, text, k[a], best[a], False, scratch[0])
        value[a], block[a], tau[a] = found
