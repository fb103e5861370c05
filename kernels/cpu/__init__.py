"""The CPU backend: Numba kernels on a thread pool. See `kernels.Backend` for what each function does."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..packing import Problem, Texts
from . import costs as _costs
from . import null as _null
from . import prefix as _prefix
from .threads import run, slices

NAME = "cpu"

_BOUND_BYTES = 1 << 29
"""The most memory that all threads together take for the int16 costs of 32 resamples each."""


def exp_costs(secret: np.ndarray, tokens: np.ndarray, n: int, threads: int) -> np.ndarray:
    out = np.empty((len(tokens), n + 16), np.int32)
    jobs = [(secret, tokens[a:b], n, 0, out[a:b]) for a, b in slices(len(tokens), threads)]
    run(_costs.exp_costs, jobs, threads)
    return out[:, :n]


def exp_table(secret: np.ndarray, vocab_size: int, n: int, threads: int) -> np.ndarray:
    chunks = (vocab_size + 255) // 256
    out = np.empty((256 * chunks, 16 * ((n + 15) // 16)), np.int32)
    jobs = [(secret, 256 * a, 256 * b, out) for a, b in slices(chunks, 4 * threads)]
    run(_costs.exp_table, jobs, threads)
    return out


def observe(
    problem: Problem,
    texts: Texts,
    costs: np.ndarray,
    source: np.ndarray,
    best: np.ndarray,
    threads: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    value = np.empty(len(texts), np.int32)
    block = np.empty(len(texts), np.int64)
    tau = np.empty(len(texts), np.int64)
    edits = problem.needs_edits(texts.k)
    jobs = [
        (
            costs,
            source,
            edits,
            problem.n,
            problem.gamma,
            np.arange(a, b),
            texts.inverse,
            texts.offsets,
            texts.distinct_offsets,
            texts.k,
            best,
            value,
            block,
            tau,
        )
        for a, b in slices(len(texts), 8 * threads)
    ]
    run(_null.observe, jobs, threads)
    return value, block, tau


def hits(
    problem: Problem,
    texts: Texts,
    value: np.ndarray,
    active: np.ndarray,
    limit: np.ndarray,
    seed_key: np.ndarray,
    first: int,
    last: int,
    threads: int,
) -> np.ndarray:
    out = np.zeros((len(texts), last - first), np.uint8)
    open_masks = np.full((len(texts), (last - first) // 32), 0xFFFFFFFF, np.uint32)
    scheme = (problem.n, problem.gamma, problem.vocab_size, problem.denominator)
    edits = problem.needs_edits(texts.k)
    for with_edits in (True, False):
        members = active[edits[active] == with_edits]
        kind = (seed_key, problem.its, with_edits, *scheme)
        group = first // 32
        function, jobs, most = _bound_jobs(
            problem, texts, value, members, kind, group, open_masks, threads
        )
        run(function, jobs, min(threads, most))
        run(
            *_decide_jobs(texts, value, members, limit, kind, group, open_masks, out, threads),
            threads,
        )
    return out


def tally(
    problem: Problem,
    texts: Texts,
    value: np.ndarray,
    active: np.ndarray,
    limit: np.ndarray,
    seed_key: np.ndarray,
    first: int,
    stop: int,
    threads: int,
) -> tuple[np.ndarray, np.ndarray]:
    last = first + (stop - first + 31) // 32 * 32
    found = hits(problem, texts, value, active, limit, seed_key, first, last, threads)
    counts = np.zeros((2, len(texts)), np.int64)
    _null.tally(found, active, limit, stop - first, counts[0], counts[1])
    return counts[0], counts[1]


def _bound_jobs(
    problem: Problem,
    texts: Texts,
    value: np.ndarray,
    members: np.ndarray,
    kind: tuple[Any, ...],
    base_group: int,
    open_masks: np.ndarray,
    threads: int,
) -> tuple[Callable[..., None], list[tuple[Any, ...]], int]:
    """Clear the bits of open_masks that an int16 bound decides; also how many jobs may run at once."""
    rows = texts.rows
    size = rows * problem.n * 64
    blocks = np.diff(texts.offsets) - texts.k + 1
    # Sliding sums decide a plain alignment of many blocks faster than bounds that slide nothing.
    bounded = np.full(len(texts), kind[2]) | (blocks * texts.k <= 8 * (blocks + texts.k))
    # And so that memory stays small, texts whose int16 costs would not fit are decided one resample at a time.
    bounded &= size <= _BOUND_BYTES
    members = members[bounded[members]]
    shifts = np.array([problem.shift(int(k)) for k in texts.k])
    windows = np.array([problem.windows(int(k)) for k in texts.k])
    jobs = []
    for shift in np.unique(shifts[members]).tolist():
        # What has to be exceeded: E + gamma k (see `bound.edit_bound`), in units of 2**shift.
        level = value.astype(np.int64) + (problem.gamma * texts.k if kind[2] else 0)
        drift = np.rint(-level / texts.k / 2.0**shift).astype(np.int64)
        threshold = (level >> shift) + drift * texts.k
        for a, b in slices(open_masks.shape[1], 4 * threads):
            groups = (base_group + a, base_group + b, base_group)
            packed = (texts.inverse, texts.offsets, rows, texts.k)
            alike = members[shifts[members] == shift]
            limits = (threshold, drift, windows)
            jobs.append((*kind, shift, *groups, *packed, *limits, alike, open_masks))
    return _null.bound_groups, jobs, max(1, _BOUND_BYTES // int(size[members].max(initial=1)))


def _decide_jobs(
    texts: Texts,
    value: np.ndarray,
    members: np.ndarray,
    limit: np.ndarray,
    kind: tuple[Any, ...],
    base_group: int,
    open_masks: np.ndarray,
    out: np.ndarray,
    threads: int,
) -> tuple[Callable[..., None], list[tuple[Any, ...]]]:
    """Set out where a resample that is still open is a hit."""
    members = members[open_masks[members].any(axis=1)]
    # A text in one piece can stop at its limit; few texts are cut up so that every thread has work.
    pieces = slices(open_masks.shape[1], 1 if len(members) >= 4 * threads else 4 * threads)
    work = np.array([(a, g, h) for g, h in pieces for a in members], np.int64).reshape(-1, 3)
    packed = (texts.inverse, texts.offsets, texts.rows, texts.k)
    return _null.decide_groups, [
        (*kind, work[a:b], base_group, open_masks, *packed, value, limit, out)
        for a, b in slices(len(work), 16 * threads)
    ]


def null_values(
    problem: Problem,
    texts: Texts,
    a: int,
    seed_key: np.ndarray,
    first: int,
    last: int,
    threads: int,
) -> np.ndarray:
    out = np.empty(last - first, np.int32)
    edits = bool(problem.needs_edits(texts.k)[a])
    inverse = texts.inverse[texts.offsets[a] : texts.offsets[a + 1]]
    jobs = [
        (
            seed_key,
            problem.its,
            edits,
            problem.n,
            problem.gamma,
            problem.vocab_size,
            problem.denominator,
            inverse,
            int(texts.rows[a]),
            int(texts.k[a]),
            first + b,
            first + c,
            out[b:c],
        )
        for b, c in slices(last - first, 4 * threads)
    ]
    run(_null.null_values, jobs, threads)
    return out


def observe_prefixes(problem: Problem, texts: Texts, costs: np.ndarray) -> np.ndarray:
    edits = bool(problem.needs_edits(texts.k)[0])
    matrix = np.empty((costs.shape[0], problem.n + 16), np.int32)
    matrix[:, : problem.n] = costs[:, : problem.n] + (problem.offset if edits else 0)
    _costs.wrap(problem.n, matrix)
    out = np.empty(len(texts.inverse), np.int32)
    _prefix.observe_prefixes(matrix, edits, problem.n, texts.inverse, out)
    return out


def prefix_hits(
    problem: Problem,
    texts: Texts,
    value: np.ndarray,
    seed_key: np.ndarray,
    first: int,
    last: int,
    threads: int,
) -> np.ndarray:
    edits = bool(problem.needs_edits(texts.k)[0])
    pieces = slices((last - first + 1) // 2, 4 * threads)
    hits = np.zeros((len(pieces), len(value)), np.int64)
    jobs = [
        (
            seed_key,
            problem.its,
            edits,
            problem.n,
            problem.gamma,
            problem.vocab_size,
            problem.denominator,
            texts.inverse,
            int(texts.rows[0]),
            value,
            first + 2 * a,
            min(first + 2 * b, last),
            hits[piece],
        )
        for piece, (a, b) in enumerate(pieces)
    ]
    run(_prefix.prefix_hits, jobs, threads)
    return hits.sum(axis=0)
