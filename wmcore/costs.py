"""The token costs of one key, for any tokens: what a `Detector` keeps between batches.

A source is made by `Key.costs` or `PublishedKey.costs`. Its `table` gives costs where the backend wants them.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from wmcore.kernels import Backend
from wmcore.kernels.problem import COSTS, CostTable, Problem
from wmcore.published import exp_costs

# A table of all costs is kept once this share of the vocabulary has been asked for, and if it fits.
_TABLE_AFTER = 1 / 16
_TABLE_LIMIT = 1 << 28


class CostSource:
    """Costs of int64 token ids below V, in the cost units of a problem."""

    def table(self, tokens: np.ndarray, backend: Backend, threads: int) -> CostTable:
        """The costs of tokens (int64 [U], repeats allowed)."""
        distinct, rows = np.unique(tokens, return_inverse=True)
        return CostTable(self.matrix(distinct, backend, threads), rows)

    def matrix(self, tokens: np.ndarray, backend: Backend, threads: int) -> np.ndarray:
        """int32 [U, >= n] of distinct tokens."""
        raise NotImplementedError

    def numbers(self, tokens: np.ndarray, backend: Backend) -> CostTable:
        """The upper 16 bits of the key's numbers of tokens (int64 [U], repeats allowed), in place of costs."""
        raise NotImplementedError

    def etas(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray] | None:
        """eta of each token of each text, in cost units; None where a cost is not made of a rank."""
        return None


class ChaChaCosts(CostSource):
    """Costs of a ChaCha key's words, made by the backend. A table of all is made once it pays."""

    def __init__(self, words: np.ndarray, problem: Problem) -> None:
        self._words = words
        self._problem = problem
        self._asked = 0
        self._maker: int | None = None
        self._table: Any = None

    def table(self, tokens: np.ndarray, backend: Backend, threads: int) -> CostTable:
        n, vocab_size = self._problem.n, self._problem.vocab_size
        self._asked += len(tokens)
        if (
            self._table is None
            and self._asked > _TABLE_AFTER * vocab_size
            and vocab_size * n * 4 <= _TABLE_LIMIT
        ):
            self._make(backend, threads)
        table = self._table
        if table is not None:
            return CostTable(table, tokens)
        return super().table(tokens, backend, threads)

    def _make(self, backend: Backend, threads: int) -> None:
        """Make the table, unless this process is at it: then, meanwhile, costs are made for each batch.

        Not with a lock, for which a forked child would wait for ever, or a signal handler that interrupts this. Two
        threads that come here in the same microsecond both make the table.
        """
        if self._maker == os.getpid():
            return
        self._maker = os.getpid()
        try:
            problem = self._problem
            self._table = backend.exp_table(self._words, problem.vocab_size, problem.n, threads)
        finally:
            self._maker = None

    def matrix(self, tokens: np.ndarray, backend: Backend, threads: int) -> np.ndarray:
        return backend.exp_costs(self._words, tokens, self._problem.n, threads)

    def numbers(self, tokens: np.ndarray, backend: Backend) -> CostTable:
        distinct, rows = np.unique(tokens, return_inverse=True)
        return CostTable(backend.exp_numbers(self._words, distinct, self._problem.n), rows)

    def __reduce__(self) -> tuple[type["ChaChaCosts"], tuple[np.ndarray, Problem]]:
        return ChaChaCosts, (self._words, self._problem)


class UniformCosts(CostSource):
    """Costs of a table of uniforms, made when first needed. make_xi: () -> float32 [n, V], kept by the key."""

    def __init__(self, make_xi: Callable[[], np.ndarray]) -> None:
        self._make_xi = make_xi

    def matrix(self, tokens: np.ndarray, backend: Backend, threads: int) -> np.ndarray:
        return exp_costs(self._make_xi().T[tokens])

    def numbers(self, tokens: np.ndarray, backend: Backend) -> CostTable:
        distinct, rows = np.unique(tokens, return_inverse=True)
        xi = self._make_xi().T[distinct]
        return CostTable((xi * np.float32(65536)).astype(np.uint16), rows)


class RankCosts(CostSource):
    """abs(u - eta) of a row's u and a token's eta. make: () -> (u int64 [n], order int32 [V]), in cost units."""

    def __init__(self, make: Callable[[], tuple[np.ndarray, np.ndarray]], problem: Problem) -> None:
        self._make = make
        self._problem = problem
        self._parts: tuple[np.ndarray, np.ndarray] | None = None

    def matrix(self, tokens: np.ndarray, backend: Backend, threads: int) -> np.ndarray:
        u, eta = self._both()
        costs = u[None, :] - eta[tokens][:, None]
        return np.abs(costs, out=costs)

    def numbers(self, tokens: np.ndarray, backend: Backend) -> CostTable:
        u, _ = self._both()
        return CostTable(u.astype(np.uint16)[None], np.zeros(len(tokens), np.int64))

    def etas(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        _, eta = self._both()
        return [eta[tokens] for tokens in arrays]

    def _both(self) -> tuple[np.ndarray, np.ndarray]:
        """u of each row and eta of each token, in cost units: int32 [n], int32 [V]."""
        if self._parts is None:
            u, order = self._make()
            rank = np.empty(len(order), np.int64)
            rank[order] = np.arange(len(order))
            eta = eta_units(rank, self._problem)
            self._parts = u.astype(np.int32), eta.astype(np.int32)
        return self._parts


def eta_units(rank: np.ndarray, problem: Problem) -> np.ndarray:
    """eta(rank) = rank / denominator in cost units, rounded to nearest: int64."""
    denominator = problem.denominator
    scale = COSTS[problem.cost].scale
    return (rank * scale + denominator // 2) // max(denominator, 1)
