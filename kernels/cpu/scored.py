"""Free and local alignments on the cyclic key, with scores from a table: 32 resamples at once, in int16 lanes.

Let D[i, j] be the least cost of aligning the first i tokens (local: some of the last of them) so that the last key row
used or passed over is j. With c = minus the score of token i at row j, rows cyclic,

    D[i, j] = min(D[i-1, j-1] + c, D[i-1, j] + gamma, D[i, j-1] + gamma),  D[0, j] = 0,

local: also 0. The statistic of a free alignment is the least D[m, j], or the least cost without a gap less a bonus;
that of a local one is the least D[i, j] of all. Additions saturate at the ends of int16 (1,024 nats), and the order of
the additions is part of the definition: with it the statistic is a function of text and key, which is all that a
permutation test asks for, and no resample is left open. Kept is D + gamma, what a gap would give.
"""

from typing import NamedTuple

import numpy as np

from ..constants import DOMAIN_NULL_HIGH, ROUNDS
from ..problem import ITS, LOCAL
from .chacha import blocks
from .evalue import log_e_of
from .jit import njit
from .memory import aligned_i16
from .resample import its_uniforms
from .simd import (
    add_saturated,
    halves,
    iota_i32,
    less_equal_mask,
    load_i16,
    minimum,
    splat_i16,
    splat_i32,
    store,
)

ALL = 0xFFFFFFFF
MOST = 32767


class Lanes(NamedTuple):
    """State of 32 alignments: state and plain int16 [n * 32], D + gamma and the cost without gaps of each row."""

    state: np.ndarray
    plain: np.ndarray


@njit(nogil=True)
def _start(n, gamma, lanes):
    """No token yet."""
    for j in range(n):
        store(lanes.state, j * 32, splat_i16(gamma))
        store(lanes.plain, j * 32, splat_i16(0))


@njit(nogil=True)
def _around(n, gamma, state, left):
    """Carry row gaps over the end of the key, `left` what the last row gives the first."""
    step = splat_i16(gamma)
    for j in range(n):
        old = load_i16(state, j * 32)
        new = minimum(old, add_saturated(left, step))
        if less_equal_mask(old, new) == ALL:
            break
        store(state, j * 32, new)
        left = new


@njit(nogil=True)
def _free_step(costs, base, n, gamma, lanes):
    """One token more; costs[base + 32 j]: its costs at row j, gamma taken off."""
    state, plain = lanes
    step = splat_i16(gamma)
    diagonal = load_i16(state, (n - 1) * 32)
    before = load_i16(plain, (n - 1) * 32)
    left = splat_i16(MOST)
    for j in range(n):  # hot loop
        cost = load_i16(costs, base + j * 32)
        up = load_i16(state, j * 32)
        new = minimum(minimum(add_saturated(diagonal, cost), up), left)
        left = add_saturated(new, step)
        store(state, j * 32, left)
        diagonal = up
        here = load_i16(plain, j * 32)
        store(plain, j * 32, add_saturated(add_saturated(before, cost), step))
        before = here
    _around(n, gamma, state, left)


@njit(nogil=True)
def _local_step(costs, base, n, gamma, lanes, best):
    """As `_free_step`, of a local alignment; returns the least D so far."""
    state = lanes.state
    step = splat_i16(gamma)
    zero = splat_i16(0)
    diagonal = load_i16(state, (n - 1) * 32)
    left = splat_i16(MOST)
    for j in range(n):  # hot loop
        cost = load_i16(costs, base + j * 32)
        up = load_i16(state, j * 32)
        new = minimum(minimum(minimum(add_saturated(diagonal, cost), up), zero), left)
        best = minimum(best, new)
        left = add_saturated(new, step)
        store(state, j * 32, left)
        diagonal = up
    _around(n, gamma, state, left)
    return best


@njit(nogil=True)
def _free_value(n, gamma, bonus, lanes):
    """The statistics after the last token."""
    best = splat_i16(MOST)
    plain = splat_i16(MOST)
    for j in range(n):
        best = minimum(best, load_i16(lanes.state, j * 32))
        plain = minimum(plain, load_i16(lanes.plain, j * 32))
    gap = add_saturated(best, splat_i16(-gamma))
    return minimum(gap, add_saturated(plain, splat_i16(-bonus)))


@njit(nogil=True)
def number_rows(problem, n_rows):
    """How many rows of numbers a text of n_rows distinct tokens has: its tokens share a row's u."""
    return 1 if problem.cost == ITS else n_rows


@njit(nogil=True)
def resampled_levels(seed_key, problem, group, n_rows, levels, out):
    """out[(i n + j) 32 + l]: the level of resample 32 group + l, number row i, key row j: flat uint8."""
    n = problem.n
    if problem.cost == ITS:
        even = np.empty(n, np.int32)
        odd = np.empty(n, np.int32)
        for lane in range(16):
            its_uniforms(seed_key, 16 * group + lane, n, even, odd)
            for j in range(n):
                out[j * 32 + 2 * lane] = levels[even[j]]
                out[j * 32 + 2 * lane + 1] = levels[odd[j]]
        return
    s = (n + 15) // 16
    pair = splat_i32(16 * group) + iota_i32()
    domain = splat_i32(DOMAIN_NULL_HIGH)
    words = np.empty(16 * 32, np.int16)
    numbers = words.view(np.uint16)
    for i in range(n_rows):
        for b in range(s):  # hot loop
            x = blocks(seed_key, splat_i32(b), splat_i32(i), domain, pair, ROUNDS)
            for w in range(16):
                store(words, 32 * w, halves(x[w]))
            for w in range(16):
                j = w * s + b
                if j < n:
                    at = (i * n + j) * 32
                    for lane in range(32):
                        out[at + lane] = levels[numbers[32 * w + lane]]


@njit(nogil=True)
def _look_up(levels, first, count, table, costs, at):
    """costs[at + e] = table[levels[first + e]], e < count: flat uint8, int16 [LEVELS], flat int16."""
    for e in range(count):  # hot loop
        costs[at + e] = table[levels[first + e]]


@njit(nogil=True)
def cost_tables(scoring, gamma):
    """The costs of every bin less gamma, as `_free_step` takes them: int16 [B, LEVELS]."""
    costs = scoring.costs
    out = np.empty(costs.shape, np.int16)
    for b in range(costs.shape[0]):
        for level in range(costs.shape[1]):
            out[b, level] = max(np.int32(costs[b, level]) - gamma, -32768)
    return out


class Group(NamedTuple):
    """Numbers of 32 resamples. levels: flat uint8 [R * n * 32]; costs: flat int16, [R * B * n * 32] where R or B is
    1, the row of number row i and bin b at i B + b; else [n * 32], made anew for each token; tables: int16 [B, LEVELS].
    """

    levels: np.ndarray
    costs: np.ndarray
    tables: np.ndarray


@njit(nogil=True)
def group_scratch(problem, scoring, n_rows):
    """`Group` for texts of at most n_rows distinct tokens."""
    rows, bins = number_rows(problem, n_rows), scoring.costs.shape[0]
    kept = rows * bins if min(rows, bins) == 1 else 1
    size = problem.n * 32
    return Group(
        np.empty(rows * size, np.uint8),
        aligned_i16(kept * size),
        cost_tables(scoring, problem.gamma),
    )


@njit(nogil=True)
def make_group(seed_key, problem, group, n_rows, scoring, out):
    """Fill `out` (`Group`) with the numbers of resamples 32 group ..."""
    rows, bins = number_rows(problem, n_rows), out.tables.shape[0]
    size = problem.n * 32
    resampled_levels(seed_key, problem, group, rows, scoring.levels, out.levels)
    if min(rows, bins) == 1:
        for i in range(rows):
            for b in range(bins):
                _look_up(
                    out.levels, i * size, size, out.tables[b], out.costs, (i * bins + b) * size
                )


@njit(nogil=True)
def _step(problem, token, bin_of, group, lanes, best):
    """One token more, the text's token-th distinct one; returns the least D so far of a local alignment."""
    n, gamma = problem.n, problem.gamma
    size = n * 32
    shared, bins = problem.cost == ITS, group.tables.shape[0]
    row = 0 if shared else token
    at = (row * bins + bin_of) * size
    if not shared and bins > 1:
        at = 0
        _look_up(group.levels, row * size, size, group.tables[bin_of], group.costs, at)
    if problem.alignment == LOCAL:
        return _local_step(group.costs, at, n, gamma, lanes, best)
    _free_step(group.costs, at, n, gamma, lanes)
    return best


@njit(nogil=True)
def statistics(problem, inverse, bins, bonus, group, lanes):
    """The statistics of a text under 32 resamples: a vector. inverse: int64 [m]; bins: uint8 [m]."""
    n, gamma = problem.n, problem.gamma
    _start(n, gamma, lanes)
    best = splat_i16(0)
    for i in range(inverse.size):
        best = _step(problem, inverse[i], bins[i], group, lanes, best)
    if problem.alignment != LOCAL:
        best = _free_value(n, gamma, bonus, lanes)
    return best


@njit(nogil=True)
def lanes_scratch(n):
    """`Lanes`."""
    return Lanes(aligned_i16(n * 32), aligned_i16(n * 32))


@njit(nogil=True, cache=True)
def tally_groups(problem, scored, value, members, seed_key, groups, found):
    """found[a, 32 (group - base) + l] = 1 where resample 32 group + l of a member text is <= value[a].

    value: int32 [N]; members: int64; groups: (first, last, base); found: uint8 [N, >= 32 (last - base)].
    """
    first_group, last_group, base = groups
    texts, scoring = scored.texts, scored.scoring
    most = np.int64(1)
    for a in members:
        most = max(most, texts.distinct_offsets[a + 1] - texts.distinct_offsets[a])
    group_of = group_scratch(problem, scoring, most)
    lanes = lanes_scratch(problem.n)
    for group in range(first_group, last_group):
        make_group(seed_key, problem, group, most, scoring, group_of)
        for a in members:
            first, last = texts.offsets[a], texts.offsets[a + 1]
            best = statistics(
                problem,
                texts.inverse[first:last],
                scored.bins[first:last],
                scored.bonus[a],
                group_of,
                lanes,
            )
            mask = less_equal_mask(best, splat_i16(max(min(value[a], MOST), -32768)))
            for lane in range(32):
                found[a, 32 * (group - base) + lane] = (mask >> lane) & 1


@njit(nogil=True, cache=True)
def null_values(problem, scored, a, seed_key, groups, out):
    """out[32 (group - first) + l] = the statistic of text a under resample 32 group + l. groups: (first, last)."""
    texts = scored.texts
    first, last = texts.offsets[a], texts.offsets[a + 1]
    n_rows = texts.distinct_offsets[a + 1] - texts.distinct_offsets[a]
    group_of = group_scratch(problem, scored.scoring, n_rows)
    lanes = lanes_scratch(problem.n)
    values = np.empty(32, np.int16)
    for group in range(groups[0], groups[1]):
        make_group(seed_key, problem, group, n_rows, scored.scoring, group_of)
        inverse, bins = texts.inverse[first:last], scored.bins[first:last]
        best = statistics(problem, inverse, bins, scored.bonus[a], group_of, lanes)
        store(values, 0, best)
        for lane in range(32):
            out[32 * (group - groups[0]) + lane] = values[lane]


@njit(nogil=True, cache=True)
def null_prefixes(problem, scored, bonus, seed_key, groups, out):
    """out[32 (group - first) + l] = the statistics of every prefix of the only text under resample 32 group + l.

    bonus: int32 [m]; groups: (first, last); out: int32 [32 (last - first), m].
    """
    texts = scored.texts
    m = texts.inverse.size
    n, gamma = problem.n, problem.gamma
    group_of = group_scratch(problem, scored.scoring, texts.distinct.size)
    lanes = lanes_scratch(n)
    values = np.empty(32, np.int16)
    for group in range(groups[0], groups[1]):
        make_group(seed_key, problem, group, texts.distinct.size, scored.scoring, group_of)
        _start(n, gamma, lanes)
        best = splat_i16(0)
        for i in range(m):
            best = _step(problem, texts.inverse[i], scored.bins[i], group_of, lanes, best)
            value = best
            if problem.alignment != LOCAL:
                value = _free_value(n, gamma, bonus[i], lanes)
            store(values, 0, value)
            for lane in range(32):
                out[32 * (group - groups[0]) + lane, i] = values[lane]


@njit(nogil=True)
def _clip(value):
    return min(max(value, -32768), MOST)


class Trace(NamedTuple):
    """State of one alignment, for each key row. state: int64 [n], D + gamma above the bits of where the path began
    (`_origin`); plain: int32 [n], as in `Lanes`."""

    state: np.ndarray
    plain: np.ndarray


ROW_BITS = 20
VALUE = 44
"""The bits from here on are the value: among equal ones the least number is the path that began last."""
LAST_TOKEN = (1 << (VALUE - ROW_BITS)) - 1
ORIGIN = (1 << VALUE) - 1
NO_PATH = 1 << 62


@njit(nogil=True)
def _origin(token, row):
    """A path that begins with `token` (of more than 2**24 the last one), in the key row after `row`."""
    return (np.int64(max(LAST_TOKEN - token, 0)) << ROW_BITS) | row


@njit(nogil=True)
def _saturated(state):
    """A state whose value is cut to 16 bits."""
    origin = state & ORIGIN
    return max(min(state, (MOST << VALUE) + origin), (-32768 << VALUE) + origin)


@njit(nogil=True)
def _trace_step(numbers, costs, levels, problem, i, state):
    """Token i, with its numbers (uint16 [n]) and the costs of its bin (int16 [LEVELS], gamma taken off). Returns the
    least D with its origin. No branches: a processor cannot foresee which path is best."""
    n = problem.n
    gap = np.int64(problem.gamma) << VALUE
    fresh = _origin(i + 1, 0) if problem.alignment == LOCAL else NO_PATH
    diagonal = state[n - 1]
    left = best = np.int64(NO_PATH)
    for j in range(n):  # hot loop
        cost = np.int64(costs[levels[numbers[j]]]) << VALUE
        up = state[j]
        new = min(min(min(_saturated(diagonal + cost), up), fresh + j), left)
        best = min(best, new)
        diagonal = up
        left = _saturated(new + gap)
        state[j] = left
    for j in range(n):
        left = _saturated(left + gap)
        if left >> VALUE >= state[j] >> VALUE:
            break
        state[j] = left
    return best


@njit(nogil=True)
def _plain_step(numbers, costs, levels, problem, plain):
    """Token i of the alignments without gaps."""
    before = plain[problem.n - 1]
    for j in range(problem.n):
        here = plain[j]
        cost = np.int32(costs[levels[numbers[j]]])
        plain[j] = _clip(_clip(before + cost) + problem.gamma)
        before = here


@njit(nogil=True)
def _trace_start(problem, trace):
    for j in range(problem.n):
        trace.state[j] = (np.int64(problem.gamma) << VALUE) + _origin(0, j)
        trace.plain[j] = 0


@njit(nogil=True)
def trace_scratch(n):
    """`Trace`."""
    return Trace(np.empty(n, np.int64), np.empty(n, np.int32))


@njit(nogil=True)
def trace_text(problem, scored, a, costs, tables, trace, prefixes):
    """(value, block, stop, tau) of text a under one key: the statistic, the tokens aligned, the key row they start at.

    costs: `CostTable` of numbers; tables: `cost_tables`; prefixes: None, or (bonus, out), int32 [m] each: the bonus of
    every prefix, and where its statistic goes.
    """
    n, gamma = problem.n, problem.gamma
    texts = scored.texts
    first = texts.offsets[a]
    m = texts.offsets[a + 1] - first
    source = costs.source[texts.distinct_offsets[a] :]
    local = problem.alignment == LOCAL
    value, block, tau = np.int32(0 if local else MOST), np.int64(0), np.int64(0)
    stop = np.int64(0 if local else m)
    _trace_start(problem, trace)
    for i in range(m):
        numbers = costs.matrix[source[texts.inverse[first + i]]]
        table = tables[scored.bins[first + i]]
        found = _trace_step(numbers, table, scored.scoring.levels, problem, i, trace.state)
        if not local:
            _plain_step(numbers, table, scored.scoring.levels, problem, trace.plain)
            if i + 1 < m and prefixes is None:
                continue
            value = np.int32(MOST)
        least = _clip(_clip((found >> VALUE) + gamma) - gamma)
        if least < value:
            origin = found & ORIGIN
            value, stop = np.int32(least), np.int64(i + 1)
            block = LAST_TOKEN - (origin >> ROW_BITS)
            tau = ((origin & ((1 << ROW_BITS) - 1)) + 1) % n
        if not local:
            bonus = scored.bonus[a] if prefixes is None else prefixes[0][i]
            for j in range(n):
                cost = _clip(trace.plain[j] - bonus)
                if cost < value:
                    value, block, tau = cost, np.int64(0), (j - i) % n
        if prefixes is not None:
            prefixes[1][i] = value
    return value, block, stop, tau


@njit(nogil=True, cache=True)
def observe(problem, scored, members, costs, best, fits):
    """Fill fits for the member texts (int64): the statistic and where it is. best: int32 [N]: a text whose statistic
    exceeds it is left as it is."""
    trace = trace_scratch(problem.n)
    tables = cost_tables(scored.scoring, problem.gamma)
    for a in members:
        value, block, stop, tau = trace_text(problem, scored, a, costs, tables, trace, None)
        if value <= best[a]:
            fits.value[a], fits.block[a], fits.stop[a], fits.tau[a] = value, block, stop, tau


@njit(nogil=True, cache=True)
def observe_prefixes(problem, scored, bonus, costs, out):
    """out[l] = the statistic of the prefix of l + 1 tokens of the only text under one key: int32 [m]."""
    tables = cost_tables(scored.scoring, problem.gamma)
    trace_text(problem, scored, 0, costs, tables, trace_scratch(problem.n), (bonus, out))


@njit(nogil=True, cache=True)
def log_evalues(problem, scored, members, costs, prior, out):
    """out[a] = log E of the member texts (int64), with the factors of the scoring: float64 [N] (see `evalue.py`)."""
    n = problem.n
    texts, scoring = scored.texts, scored.scoring
    for a in members:
        first = texts.offsets[a]
        m = texts.offsets[a + 1] - first
        source = costs.source[texts.distinct_offsets[a] :]
        f = np.empty((m, n))
        for i in range(m):
            numbers = costs.matrix[source[texts.inverse[first + i]]]
            factors = scoring.factors[scored.bins[first + i]]
            for j in range(n):
                f[i, j] = factors[scoring.levels[numbers[j]]]
        out[a] = log_e_of(f, np.arange(m), prior)


@njit(nogil=True, cache=True)
def log_segments(problem, scored, members, costs, out):
    """out[a] = the largest sum of log factors of the member texts (int64) along a diagonal: float64 [N].

    A segment meets one key row after the other. One that reaches n tokens ends there, and the next starts at 0.
    """
    n = problem.n
    texts, scoring = scored.texts, scored.scoring
    logs = np.log(scoring.factors)
    total = np.empty(n)
    used = np.empty(n, np.int64)
    for a in members:
        first, last = texts.offsets[a], texts.offsets[a + 1]
        source = costs.source[texts.distinct_offsets[a] :]
        total[:] = 0.0
        used[:] = 0
        best = 0.0
        for i in range(first, last):
            numbers = costs.matrix[source[texts.inverse[i]]]
            table = logs[scored.bins[i]]
            before, length = total[n - 1], used[n - 1]
            for j in range(n):  # hot loop
                new, size = before + table[scoring.levels[numbers[j]]], length + 1
                before, length = total[j], used[j]
                best = max(best, new)
                keep = new > 0.0 and size < n
                total[j] = new if keep else 0.0
                used[j] = size if keep else 0
        out[a] = best


@njit(nogil=True, cache=True)
def path(problem, scored, costs, out):
    """The best alignment of the only text with a key: out[i] = the key row of token i, untouched for gaps and outside.

    costs: `CostTable` of numbers; out: int64 [m]. Returns (first token aligned, last + 1). Memory: m * n bytes. Matches
    win ties. Sums do not saturate here.
    """
    n, gamma, local = problem.n, problem.gamma, problem.alignment == LOCAL
    texts, scoring = scored.texts, scored.scoring
    m = texts.inverse.size
    zero = np.int64(0)
    came = np.empty((m, n), np.int8)  # 0: match, 1: token gap, 2: row gap, 3: nothing before
    state = np.zeros(n, np.int64)
    plain = np.zeros(n, np.int64)
    best, end, at = 0 if local else 2**62, -1, -1
    for i in range(m):
        numbers = costs.matrix[costs.source[texts.inverse[i]]]
        table = scoring.costs[scored.bins[i]]
        diagonal, before = state[n - 1], plain[n - 1]
        for j in range(n):
            cost = np.int64(table[scoring.levels[numbers[j]]])
            up = state[j]
            new, how = diagonal + cost, 0
            if up + gamma < new:
                new, how = up + gamma, 1
            if j > 0 and state[j - 1] + gamma < new:
                new, how = state[j - 1] + gamma, 2
            if local and new >= 0:
                new, how = zero, 3
            diagonal, state[j] = up, new
            came[i, j] = how
            here = plain[j]
            plain[j] = before + cost
            before = here
        for j in range(n):  # around the end of the key
            if state[j - 1] + gamma >= state[j]:
                break
            state[j] = state[j - 1] + gamma
            came[i, j] = 2
        if local or i == m - 1:
            for j in range(n):
                if state[j] < best:
                    best, end, at = int(state[j]), i, j
    if not local:
        for j in range(n):
            if plain[j] - scored.bonus[0] < best:
                best, end, at = int(plain[j] - scored.bonus[0]), -1, j
        if end < 0:
            for i in range(m):
                out[i] = (at - (m - 1) + i) % n
            return 0, m
    i, j = end, at
    while i >= 0 and came[i, j] != 3:
        how = came[i, j]
        if how == 0:
            out[i] = j
        if how <= 1:
            i -= 1
        if how != 1:
            j = (j - 1) % n
    return i + 1, end + 1
