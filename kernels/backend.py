"""`Backend`: what a backend does, as a class with defaults. `kernels.resolve` is the one place where one is chosen.

Shared arguments of the methods:

    problem : Problem, the test in integers; texts : Texts, N packed texts.
    value, best : int32 [N], statistics: alignment costs in cost units, whatever the kernels work on inside.
    resamples : Resamples. A resampled number is a function of (seed, resample, distinct token, key row) alone, so
        no result depends on the batch, the threads or the backend.
    threads : int, CPU threads that may be used.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

from .problem import EDIT, CostTable, Fits, Problem, Resamples, ScoredTexts, Texts

Sampler = Callable[[Any, str, Any, float, Any, int], None]
"""(logits [B, V], dtype name, key rows int64 [B], inverse temperature, out int64 [B], stream) -> None: writes tokens to
out; -1 for a row without a distribution (all -inf or NaN, or with +inf in it). Arrays are the backend's own. The CUDA
backend's have `reserve(rows, stream)`, for graphs."""


class ExpNumbers(NamedTuple):
    """What exponential minimum sampling draws from: a ChaCha key, uint32 [8], and a domain of it."""

    secret: np.ndarray
    domain: int


class ItsNumbers(NamedTuple):
    """What inverse transform sampling draws from: order int32 [V], the token of each rank; words uint32 [n], u of
    each key row times 2**32."""

    order: np.ndarray
    words: np.ndarray


class Backend:
    """The contract. A new backend overrides what says NotImplementedError, and what it can do better."""

    name: Literal["cpu", "cuda"]

    def why_not(self) -> str | None:
        """Why it cannot run here, with the remedy; None where it can."""
        return None

    # Costs of one key

    def exp_costs(self, secret: np.ndarray, tokens: np.ndarray, n: int, threads: int) -> Any:
        """Costs of tokens (int64 [U]) at key rows 0 .. n - 1: the matrix of a `CostTable`. secret: uint32 [8]."""
        raise NotImplementedError

    def exp_table(self, secret: np.ndarray, vocab_size: int, n: int, threads: int) -> Any:
        """Costs of every token, [>= V, >= n], kept where they are used: the matrix of a `CostTable`."""
        raise NotImplementedError

    def gather(self, costs: CostTable, n: int) -> np.ndarray:
        """The rows of a `CostTable`, on the host: int32 [len(source), n]."""
        return np.ascontiguousarray(costs.matrix[costs.source, :n])

    def exp_numbers(self, secret: np.ndarray, tokens: np.ndarray, n: int) -> np.ndarray:
        """The upper halves of a key's words, uint16 [U, n], on the host. For every backend on the CPU."""
        from .cpu.costs import exp_words

        out = np.empty((len(tokens), n + 16), np.int32)
        exp_words(secret, tokens, n, out)
        return (out.view(np.uint32)[:, :n] >> 16).astype(np.uint16)

    # Statistics of texts

    def observe(
        self, problem: Problem, texts: Texts, costs: CostTable, best: np.ndarray, threads: int
    ) -> Fits:
        """The statistic of each text under one key, and where it is; not found where it exceeds best."""
        raise NotImplementedError

    def tally(
        self,
        problem: Problem,
        texts: Texts,
        value: np.ndarray,
        limit: np.ndarray,
        resamples: Resamples,
        threads: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(hits, used): int64 [N] each, of the resamples in order, up to limit[a] (int64 [N]) hits of a text.

        A hit is a resample whose statistic is <= value. used is the number of resamples looked at: all of them, or
        up to the one that is hit number limit[a]. A text of limit 0 is not looked at.
        """
        raise NotImplementedError

    def null_values(
        self, problem: Problem, texts: Texts, a: int, resamples: Resamples, threads: int
    ) -> np.ndarray:
        """The statistic of text a under each of the resamples: int32 [stop - first]."""
        raise NotImplementedError

    def path(
        self, problem: Problem, matrix: np.ndarray, inverse: np.ndarray, tau: int
    ) -> np.ndarray:
        """The key row that each token of a block met in its best alignment with a window, or -1: int64 [k].

        problem: one of `Problem.of_block`; matrix: int32 [U, n]; inverse: int64 [k], its row of each token; tau: the
        window. Here, as in `all_windows`, for every backend: on the CPU.
        """
        from .cpu.path import edit_path

        rows = (tau + np.arange(len(inverse))) % problem.n
        if problem.alignment == EDIT:
            edit_path(matrix, problem, inverse, tau, rows)
        return rows

    def all_windows(self, problem: Problem, texts: Texts, matrix: np.ndarray) -> np.ndarray:
        """The cost of every block of the only text with every window: int32 [m - k + 1, n]. Nothing is skipped."""
        from .cpu.search import align_all

        k, n = int(texts.k[0]), problem.n
        out = np.empty((len(texts.inverse) - k + 1, n), np.int32)
        align_all(np.ascontiguousarray(matrix), problem, texts.inverse, k, out)
        return out

    def log_evalues(
        self, problem: Problem, texts: Texts, costs: CostTable, members: np.ndarray, threads: int
    ) -> np.ndarray:
        """log E over all edit paths (`cpu/evalue.py`) of the texts members (int64): float64 [N], NaN for others.

        For exp costs; for every backend on the CPU.
        """
        from .cpu import evalue
        from .cpu.threads import run, slices

        rows = self.gather(costs, problem.n)
        table = CostTable(rows, np.arange(len(rows)))
        out = np.full(texts.size, np.nan)
        prior = evalue.Prior()
        jobs = [
            (table, problem.n, texts, members[a:b], evalue.factors(prior.tilt), prior, out)
            for a, b in slices(len(members), 4 * threads)
        ]
        run(evalue.log_evalues, jobs, threads)
        return out

    # Scored alignments: numbers in place of costs, `ScoredTexts` in place of texts. Here for every backend, on the CPU.

    def observe_scored(
        self,
        problem: Problem,
        scored: ScoredTexts,
        costs: CostTable,
        best: np.ndarray,
        threads: int,
    ) -> Fits:
        """As `observe`."""
        from .cpu import scored as kernels
        from .cpu.threads import run, slices

        count = scored.size
        fits = Fits.nothing(count)
        members = np.arange(count)
        jobs = [
            (problem, scored, members[a:b], costs, best, fits)
            for a, b in slices(count, 8 * threads)
        ]
        run(kernels.observe, jobs, threads)
        return fits

    def tally_scored(
        self,
        problem: Problem,
        scored: ScoredTexts,
        value: np.ndarray,
        limit: np.ndarray,
        resamples: Resamples,
        threads: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `tally`."""
        from .cpu import null
        from .cpu import scored as kernels
        from .cpu.threads import run, slices

        key, columns = resamples.seed_key, resamples.stop - resamples.first
        groups = (columns + 31) // 32
        found = np.zeros((scored.size, 32 * groups), np.uint8)
        base = resamples.first // 32
        members = np.flatnonzero(limit > 0)
        jobs = [
            (problem, scored, value, members, key, (base + a, base + b, base), found)
            for a, b in slices(groups, 4 * threads)
        ]
        run(kernels.tally_groups, jobs, threads)
        hits, used = np.zeros((2, scored.size), np.int64)
        null.tally(found, limit, columns, hits, used)
        return hits, used

    def null_scored(
        self, problem: Problem, scored: ScoredTexts, a: int, resamples: Resamples, threads: int
    ) -> np.ndarray:
        """As `null_values`."""
        from .cpu import scored as kernels
        from .cpu.threads import run, slices

        key, first, stop = resamples
        start, end = first // 32, (stop + 31) // 32
        out = np.empty(32 * (end - start), np.int32)
        jobs = [
            (problem, scored, a, key, (start + b, start + c), out[32 * b : 32 * c])
            for b, c in slices(end - start, 4 * threads)
        ]
        run(kernels.null_values, jobs, threads)
        return out[first - 32 * start : stop - 32 * start]

    def log_evalues_scored(
        self, problem: Problem, scored: ScoredTexts, costs: CostTable, threads: int
    ) -> np.ndarray:
        """log E over all edit paths, with the factors of the scoring: float64 [N]."""
        from .cpu import evalue
        from .cpu import scored as kernels
        from .cpu.threads import run, slices

        out = np.empty(scored.size)
        members = np.arange(scored.size)
        jobs = [
            (problem, scored, members[a:b], costs, evalue.Prior(), out)
            for a, b in slices(scored.size, 4 * threads)
        ]
        run(kernels.log_evalues, jobs, threads)
        return out

    def log_segments(
        self, problem: Problem, scored: ScoredTexts, costs: CostTable, threads: int
    ) -> np.ndarray:
        """The largest sum of log factors along a segment of at most n tokens without gaps, in nats: float64 [N]."""
        from .cpu import scored as kernels
        from .cpu.threads import run, slices

        out = np.empty(scored.size)
        members = np.arange(scored.size)
        jobs = [
            (problem, scored, members[a:b], costs, out) for a, b in slices(scored.size, 4 * threads)
        ]
        run(kernels.log_segments, jobs, threads)
        return out

    def path_scored(
        self, problem: Problem, scored: ScoredTexts, costs: CostTable
    ) -> tuple[np.ndarray, int, int]:
        """(rows, first, stop) of the only text: each token's key row or -1, int64 [m]; the tokens aligned."""
        from .cpu import scored as kernels

        rows = np.full(len(scored.texts.inverse), -1, np.int64)
        first, stop = kernels.path(problem, scored, costs, rows)
        return rows, first, stop

    def observe_prefixes_scored(
        self, problem: Problem, scored: ScoredTexts, bonus: np.ndarray, costs: CostTable
    ) -> np.ndarray:
        """As `observe_prefixes`. bonus: int32 [m], of every prefix."""
        from .cpu import scored as kernels

        out = np.empty(len(bonus), np.int32)
        kernels.observe_prefixes(problem, scored, bonus, costs, out)
        return out

    def null_prefixes_scored(
        self,
        problem: Problem,
        scored: ScoredTexts,
        bonus: np.ndarray,
        resamples: Resamples,
        threads: int,
    ) -> np.ndarray:
        """As `null_prefixes`. bonus: int32 [m], of every prefix."""
        from .cpu import scored as kernels
        from .cpu.threads import run, slices

        key, first, stop = resamples
        start, end = first // 32, (stop + 31) // 32
        out = np.empty((32 * (end - start), len(bonus)), np.int32)
        jobs = [
            (problem, scored, bonus, key, (start + b, start + c), out[32 * b : 32 * c])
            for b, c in slices(end - start, 4 * threads)
        ]
        run(kernels.null_prefixes, jobs, threads)
        return out[first - 32 * start : stop - 32 * start]

    # Every prefix of one text, aligned whole

    def observe_prefixes(self, problem: Problem, texts: Texts, costs: CostTable) -> np.ndarray:
        """The statistic of every prefix of the only text: int32 [m]."""
        raise NotImplementedError

    def null_prefixes(
        self, problem: Problem, texts: Texts, resamples: Resamples, threads: int
    ) -> np.ndarray:
        """The statistic of every prefix of the only text under each of the resamples: int32 [stop - first, m]."""
        raise NotImplementedError

    # Drawing tokens

    def sampler(self, numbers: ExpNumbers | ItsNumbers, device: int | None = None) -> Sampler:
        """What draws tokens from logits with these numbers; device: which one, where there are several."""
        raise NotImplementedError
