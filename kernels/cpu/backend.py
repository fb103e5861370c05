"""The CPU backend: Numba kernels on a thread pool. `kernels.backend.Backend` says what each method does."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import Backend, ExpNumbers, ItsNumbers, Sampler
from ..problem import EDIT, CostTable, Fits, Problem, Resamples, Texts
from . import costs as _costs
from . import null as _null
from . import prefix as _prefix
from .jit import WHY_NOT
from .threads import available, run, slices

BOUND_BYTES = 1 << 29
"""The most memory that all threads together take for the int16 costs of 32 resamples each."""


class CpuBackend(Backend):
    """See `Backend`."""

    name = "cpu"

    def why_not(self) -> str | None:
        return WHY_NOT

    def exp_costs(self, secret: np.ndarray, tokens: np.ndarray, n: int, threads: int) -> Any:
        out = np.empty((len(tokens), n + 16), np.int32)
        jobs = [(secret, tokens[a:b], n, out[a:b]) for a, b in slices(len(tokens), threads)]
        run(_costs.exp_costs, jobs, threads)
        return out[:, :n]

    def exp_table(self, secret: np.ndarray, vocab_size: int, n: int, threads: int) -> Any:
        chunks = (vocab_size + 255) // 256
        out = np.empty((256 * chunks, 16 * ((n + 15) // 16)), np.int32)
        jobs = [(secret, 256 * a, 256 * b, out) for a, b in slices(chunks, 4 * threads)]
        run(_costs.exp_table, jobs, threads)
        return out

    def observe(
        self, problem: Problem, texts: Texts, costs: CostTable, best: np.ndarray, threads: int
    ) -> Fits:
        count = texts.size
        fits = Fits.nothing(count)
        jobs = [
            (part, texts, members[a:b], costs, best, fits)
            for part, members in problem.parts(texts, np.arange(count))
            for a, b in slices(len(members), 8 * threads)
        ]
        run(_null.observe, jobs, threads)
        return fits

    def tally(
        self,
        problem: Problem,
        texts: Texts,
        value: np.ndarray,
        limit: np.ndarray,
        resamples: Resamples,
        threads: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        key, columns = resamples.seed_key, resamples.stop - resamples.first
        found = np.zeros((texts.size, (columns + 31) // 32 * 32), np.uint8)
        masks = np.full((texts.size, found.shape[1] // 32), 0xFFFFFFFF, np.uint32)
        for part, members in problem.parts(texts, np.flatnonzero(limit > 0)):
            left = _null.Open(resamples.first // 32, masks, np.empty((0, 3), np.int64))
            jobs, at_once = _bounds(part, texts, value, members, left, threads)
            jobs = [(part, texts, bounds, key, groups, masks) for bounds, groups in jobs]
            run(_null.bound_groups, jobs, min(threads, at_once))
            jobs = [
                (part, texts, value, limit, key, left._replace(jobs=work), found)
                for work in _work(masks, members, threads)
            ]
            run(_null.decide_groups, jobs, threads)
        hits, used = np.zeros((2, texts.size), np.int64)
        _null.tally(found, limit, columns, hits, used)
        return hits, used

    def null_values(
        self, problem: Problem, texts: Texts, a: int, resamples: Resamples, threads: int
    ) -> np.ndarray:
        key, first, stop = resamples
        out = np.empty(stop - first, np.int32)
        part = problem.of_block(int(texts.k[a]))
        jobs = [
            (part, texts, a, Resamples(key, first + b, first + c), out[b:c])
            for b, c in slices(stop - first, 4 * threads)
        ]
        run(_null.null_values, jobs, threads)
        return out

    def observe_prefixes(self, problem: Problem, texts: Texts, costs: CostTable) -> np.ndarray:
        part = problem.of_block(int(texts.k[0]))
        matrix = np.empty((len(costs.source), problem.n + 16), np.int32)
        matrix[:, : problem.n] = self.gather(costs, problem.n) - 2 * part.gamma
        _costs.wrap(problem.n, matrix)
        out = np.empty(len(texts.inverse), np.int32)
        _prefix.observe_prefixes(matrix, part, texts.inverse, out)
        return out

    def null_prefixes(
        self, problem: Problem, texts: Texts, resamples: Resamples, threads: int
    ) -> np.ndarray:
        key, first, stop = resamples
        part = problem.of_block(int(texts.k[0]))
        rows = int(texts.rows[0])
        out = np.empty((stop - first, len(texts.inverse)), np.int32)
        jobs = []
        for a, b in slices((stop - first + 1) // 2, 4 * threads):
            some = Resamples(key, first + 2 * a, min(first + 2 * b, stop))
            jobs.append((part, texts.inverse, rows, some, out[2 * a : 2 * b]))
        run(_prefix.null_prefixes, jobs, threads)
        return out

    def sampler(self, numbers: ExpNumbers | ItsNumbers, device: int | None = None) -> Sampler:
        """logits: float32 [B, V], C-contiguous, and rows and out: NumPy arrays."""
        if isinstance(numbers, ExpNumbers):
            return _on_slices(_exp_draw(numbers))
        return _on_slices(_its_draw(numbers))


def _bounds(
    problem: Problem,
    texts: Texts,
    value: np.ndarray,
    members: np.ndarray,
    left: _null.Open,
    threads: int,
) -> tuple[list[tuple[Any, ...]], int]:
    """What int16 bounds are to be made, as (bounds, groups) of `bound_groups`, and how many at once."""
    size = texts.rows * problem.n * 64
    if problem.alignment != EDIT:
        # Sliding sums decide a plain alignment of many blocks faster than bounds that slide nothing.
        blocks = texts.lengths - texts.k + 1
        members = members[(blocks * texts.k <= 8 * (blocks + texts.k))[members]]
    # And so that memory stays small, texts whose int16 costs would not fit are decided one resample at a time.
    members = members[size[members] <= BOUND_BYTES]
    lost = np.array([problem.bits_lost(int(k)) for k in texts.k])
    windows = np.array([problem.windows(int(k)) for k in texts.k])
    jobs: list[tuple[Any, ...]] = []
    for shift in np.unique(lost[members]).tolist():
        # What has to be exceeded, E + gamma k (see `bound_edit`), in units of 2**shift.
        level = value.astype(np.int64) - problem.gamma * texts.k
        drift = np.rint(-level / texts.k / 2.0**shift).astype(np.int64)
        threshold = (level >> shift) + drift * texts.k
        alike = members[lost[members] == shift]
        bounds = _null.Bounds(alike, shift, threshold, drift, windows)
        for a, b in slices(left.masks.shape[1], 4 * threads):
            jobs.append((bounds, (left.base + a, left.base + b, left.base)))
    return jobs, max(1, BOUND_BYTES // int(size[members].max(initial=1)))


def _work(masks: np.ndarray, members: np.ndarray, threads: int) -> list[np.ndarray]:
    """(text, first group, last group) of what is still open: int64 [J, 3], in pieces for threads."""
    members = members[masks[members].any(axis=1)]
    # A text in one piece can stop at its limit; few texts are cut up so that every thread has work.
    pieces = slices(masks.shape[1], 1 if len(members) >= 4 * threads else 4 * threads)
    work = np.array([(a, g, h) for g, h in pieces for a in members], np.int64).reshape(-1, 3)
    return [work[a:b] for a, b in slices(len(work), 16 * threads)]


def _exp_draw(numbers: ExpNumbers) -> Callable[..., None]:
    from .sample import exp_sample

    def draw(logits: np.ndarray, scale: np.float32, rows: np.ndarray, out: np.ndarray) -> None:
        exp_sample(logits, scale, numbers.secret, numbers.domain, rows, out)

    return draw


def _its_draw(numbers: ItsNumbers) -> Callable[..., None]:
    from .sample import its_sample

    def draw(logits: np.ndarray, scale: np.float32, rows: np.ndarray, out: np.ndarray) -> None:
        its_sample(logits, scale, numbers.order, numbers.words[rows], out)

    return draw


def _on_slices(draw: Callable[..., None]) -> Sampler:
    """Run a draw on slices of the batch in threads; the result does not depend on them."""
    cores = available()

    def sample(logits: Any, dtype: str, rows: Any, scale: float, out: Any, stream: int) -> None:
        jobs = [
            (logits[a:b], np.float32(scale), rows[a:b], out[a:b])
            for a, b in slices(len(rows), cores)
        ]
        run(draw, jobs, cores)

    return sample
