"""`Engine`: one test on one backend. It packs texts, asks a key for costs, fits, tallies, and speaks user units.

Detection, identification, prefixes, calibration, scans and the published functions all go through it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from wmcore.binning import Binning
from wmcore.checks import memory_error
from wmcore.costs import CostSource
from wmcore.errors import WatermarkError, shown
from wmcore.kernels import Backend, load, resolve
from wmcore.kernels.constants import MAX_BLOCK, NOTHING
from wmcore.kernels.problem import (
    COSTS,
    CostTable,
    Fits,
    Problem,
    Resamples,
    ScoredTexts,
    Texts,
    block_error,
    distinct_tokens,
    pack,
)

_COSTS_AT_ONCE = 1 << 30

Packed = Texts | ScoredTexts


class Alignment(NamedTuple):
    """How a block of text met the key.

    positions : int64 [k], positions in the text; rows : int64 [k], the key row of each, or -1 for a gap;
    costs : float64 [k], the token cost (nats for exp; NaN for a gap). Lower is a better fit: an exp cost averages
    -1 by chance, an its cost 1/3.
    """

    positions: np.ndarray
    rows: np.ndarray
    costs: np.ndarray


class Engine:
    """A problem, the block length that texts are packed with, and a backend that works on them.

    Parameters
    ----------
    backend : str or Backend
        A name for `kernels.resolve`; WatermarkError if it is unknown or cannot run here.
    problem : Problem
    block_length : int or None
        None aligns whole texts.
    threads : int
        CPU threads. No result depends on it.
    binning : Binning, optional
        Of a scored alignment.
    """

    def __init__(
        self,
        backend: str | Backend,
        problem: Problem,
        block_length: int | None,
        threads: int,
        binning: Binning | None = None,
    ) -> None:
        if isinstance(backend, str):
            try:
                backend = resolve(backend)
            except ValueError as error:
                raise WatermarkError(str(error)) from None
        elif not isinstance(backend, Backend):
            raise WatermarkError(
                f"backend is {shown(backend)}, but must be a name: use 'auto', 'cpu' or 'cuda'"
            )
        self.backend = backend
        self.problem = problem
        self.block_length = block_length
        self.threads = threads
        self.binning = binning

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "backend": self.backend.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, backend=load(state["backend"]))

    def on_threads(self, threads: int) -> "Engine":
        """The same on another number of threads."""
        return Engine(self.backend, self.problem, self.block_length, threads, self.binning)

    def error(self, length: int) -> str | None:
        """Why a text of this length cannot be tested, or None."""
        rows = min(length, self.problem.vocab_size)
        if self.binning is not None:
            return self._scored_error(length, rows)
        return block_error(self.problem, length, self.block_length or length) or memory_error(
            f"the table of costs of {rows:,} tokens at {self.problem.n:,} key rows",
            4 * rows * self.problem.n,
            "test a part of the text at a time",
        )

    def too_long(self, length: int) -> bool:
        """Whether the `error` of a text is that it is too long to be aligned at once."""
        k = self.block_length or length
        return (
            self.binning is not None
            or k > MAX_BLOCK
            or block_error(self.problem, length, k) is None
        ) and self.error(length) is not None

    def _scored_error(self, length: int, rows: int) -> str | None:
        if length == 0:
            return "the text has no tokens: at least one is needed"
        numbers = 1 if COSTS[self.problem.cost].ranked else rows
        return memory_error(
            f"the tables of {length:,} tokens at {self.problem.n:,} key rows",
            (96 * numbers + 8 * length) * self.problem.n,
            "test a part of the text at a time",
        )

    def pack(self, arrays: Sequence[np.ndarray]) -> Packed:
        """int64 token sequences, none of which has an `error`, as the kernels take them."""
        texts = pack(arrays, self.block_length)
        if self.binning is None:
            return texts
        bins = [self.binning.bins(array) for array in arrays]
        bonus = np.array([self.binning.bonus(part)[-1] for part in bins], np.int32)
        return ScoredTexts(texts, np.concatenate(bins), bonus, self.binning.scoring)

    def units(self, value: np.ndarray) -> np.ndarray:
        """Statistics in user units (nats for exp): float64."""
        return value / self.problem.scale

    def costs(self, source: CostSource, tokens: np.ndarray) -> CostTable:
        """Costs of tokens (int64 [U]) under a key."""
        return source.table(tokens, self.backend, self.threads)

    def matrix(self, source: CostSource, tokens: np.ndarray) -> np.ndarray:
        """Costs of tokens at every key row, in cost units: int32 [U, n]."""
        return self.backend.gather(self.costs(source, tokens), self.problem.n)

    def fit(self, texts: Packed, source: CostSource, best: np.ndarray | None = None) -> Fits:
        """The statistic of each text under a key; not found where it exceeds best (int32 [N])."""
        if best is None:
            best = np.full(texts.size, NOTHING, np.int32)
        parts = self._parts(texts)
        if len(parts) > 1:
            found = [self.fit(texts.take(part), source, best[part]) for part in parts]
            return Fits(*(np.concatenate(values) for values in zip(*found, strict=True)))
        if isinstance(texts, ScoredTexts):
            numbers = source.numbers(texts.distinct, self.backend)
            return self.backend.observe_scored(self.problem, texts, numbers, best, self.threads)
        costs = self.costs(source, texts.distinct)
        return self.backend.observe(self.problem, texts, costs, best, self.threads)

    def tally(
        self, texts: Packed, value: np.ndarray, limit: np.ndarray, resamples: Resamples
    ) -> tuple[np.ndarray, np.ndarray]:
        """`Backend.tally` of these texts."""
        rest = value, limit, resamples, self.threads
        if isinstance(texts, ScoredTexts):
            return self.backend.tally_scored(self.problem, texts, *rest)
        return self.backend.tally(self.problem, texts, *rest)

    def log_evalues(self, texts: Packed, source: CostSource) -> np.ndarray:
        """log E over all edit paths of each text, float64 [N]: 1 / E is a p-value (`kernels/cpu/evalue.py`)."""
        parts = self._parts(texts)
        if len(parts) > 1:
            return np.concatenate([self.log_evalues(texts.take(part), source) for part in parts])
        if isinstance(texts, ScoredTexts):
            numbers = source.numbers(texts.distinct, self.backend)
            return self.backend.log_evalues_scored(self.problem, texts, numbers, self.threads)
        costs = self.costs(source, texts.distinct)
        members = np.arange(texts.size)
        return self.backend.log_evalues(self.problem, texts, costs, members, self.threads)

    def log_segments(self, texts: Packed, source: CostSource) -> np.ndarray:
        """M of each text, float64 [N]: the largest sum of log factors, in nats, along a segment without gaps, of at
        most n tokens. n m exp(-M) is a p-value (`segments.py`)."""
        parts = self._parts(texts)
        if len(parts) > 1:
            return np.concatenate([self.log_segments(texts.take(part), source) for part in parts])
        assert isinstance(texts, ScoredTexts)
        numbers = source.numbers(texts.distinct, self.backend)
        return self.backend.log_segments(self.problem, texts, numbers, self.threads)

    def _parts(self, texts: Packed) -> list[np.ndarray]:
        """Texts (int64) whose costs are looked at together, so that these take at most _COSTS_AT_ONCE bytes."""
        problem = self.problem
        rows = _COSTS_AT_ONCE // (4 * problem.n)
        everything = np.arange(texts.size)
        if texts.size == 1 or min(len(texts.distinct), problem.vocab_size) <= rows:
            return [everything]
        parts, first = [], 0
        for a in range(1, texts.size + 1):
            edges = texts.distinct_offsets
            if a == texts.size or edges[a + 1] - edges[first] > rows:
                parts.append(everything[first:a])
                first = a
        return parts

    def null(self, texts: Packed, a: int, resamples: Resamples) -> np.ndarray:
        """The statistics of text a under resampled keys, in user units: float64 [stop - first]."""
        rest = a, resamples, self.threads
        if isinstance(texts, ScoredTexts):
            return self.units(self.backend.null_scored(self.problem, texts, *rest))
        return self.units(self.backend.null_values(self.problem, texts, *rest))

    def prefixes(self, texts: Packed, source: CostSource) -> np.ndarray:
        """The statistic of every prefix of the only text: int32 [m]."""
        if isinstance(texts, ScoredTexts):
            numbers = source.numbers(texts.distinct, self.backend)
            bonus = self._prefix_bonus(texts)
            return self.backend.observe_prefixes_scored(self.problem, texts, bonus, numbers)
        costs = self.costs(source, texts.distinct)
        return self.backend.observe_prefixes(self.problem, texts, costs)

    def null_prefixes(self, texts: Packed, resamples: Resamples) -> np.ndarray:
        """The statistic of every prefix of the only text under resampled keys: int32 [stop - first, m]."""
        if isinstance(texts, ScoredTexts):
            bonus = self._prefix_bonus(texts)
            return self.backend.null_prefixes_scored(
                self.problem, texts, bonus, resamples, self.threads
            )
        return self.backend.null_prefixes(self.problem, texts, resamples, self.threads)

    def _prefix_bonus(self, texts: ScoredTexts) -> np.ndarray:
        """The bonus of every prefix of the only text: int32 [m]."""
        assert self.binning is not None
        return self.binning.bonus(texts.bins)

    def alignment(
        self, tokens: np.ndarray, source: CostSource, block: int, shift: int
    ) -> Alignment:
        """How the block of tokens from `block` on met the window of key rows from `shift` on."""
        if self.binning is not None:
            texts = self.pack([tokens])
            assert isinstance(texts, ScoredTexts)
            return self.path(texts, source)
        k = self.block_length or len(tokens)
        positions = np.arange(block, block + k)
        distinct, inverse = distinct_tokens(tokens[positions])
        matrix = self.matrix(source, distinct)
        rows = self.backend.path(self.problem.of_block(k), matrix, inverse, shift)
        cost = np.where(rows >= 0, self.units(matrix[inverse, rows]), np.nan)
        return Alignment(positions, rows, cost)

    def path(self, texts: ScoredTexts, source: CostSource) -> Alignment:
        """The best free or local alignment of the only text with a key; without a position where no token fits."""
        numbers = source.numbers(texts.distinct, self.backend)
        rows, first, stop = self.backend.path_scored(self.problem, texts, numbers)
        rows = rows[first:stop]
        matrix = self.matrix(source, texts.distinct)
        cost = matrix[texts.texts.inverse[first:stop], rows] / COSTS[self.problem.cost].scale
        return Alignment(np.arange(first, stop), rows, np.where(rows >= 0, cost, np.nan))

    def path_costs(self, texts: ScoredTexts, source: CostSource, path: Alignment) -> np.ndarray:
        """What each position of a `path` adds to the cost of its alignment, gaps included, in units: int64 [k]."""
        gamma, n = self.problem.gamma, self.problem.n
        met = path.rows >= 0
        place, rows = path.positions[met], path.rows[met]
        token = texts.texts.inverse[place]
        numbers = source.numbers(texts.distinct[token], self.backend)
        level = texts.scoring.levels[numbers.matrix[numbers.source, rows]]
        out = np.full(len(met), gamma, np.int64)
        passed_over = (np.diff(rows, prepend=rows[:1] - 1) - 1) % n
        out[met] = texts.scoring.costs[texts.bins[place], level] + gamma * passed_over
        return out

    def all_windows(self, texts: Packed, source: CostSource) -> np.ndarray:
        """The cost of every block of the only text with every key window, in user units: float64 [m - k + 1, n]."""
        assert isinstance(texts, Texts)
        problem = self.problem.of_block(int(texts.k[0]))
        matrix = self.matrix(source, texts.distinct)
        return self.units(self.backend.all_windows(problem, texts, matrix))
