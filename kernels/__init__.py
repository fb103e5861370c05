"""Kernels: arrays in, arrays out. No torch, no files, no configuration objects; imports nothing of wmcore.

A backend is a module with the functions of `Backend`. `resolve` is the one place where it is chosen.
"""

import importlib
import os
from typing import Protocol

import numpy as np

from .packing import Problem, Texts

BACKENDS = ("auto", "cpu", "cuda")


class Backend(Protocol):
    """The functions that a backend module offers. uint32 [8] secrets and seed keys are ChaCha keys."""

    NAME: str

    def exp_costs(self, secret: np.ndarray, tokens: np.ndarray, n: int, threads: int) -> np.ndarray:
        """Costs of tokens (int64 [U]) at key rows 0 .. n - 1: int32 [U, n]."""

    def exp_table(self, secret: np.ndarray, vocab_size: int, n: int, threads: int) -> np.ndarray:
        """Costs of every token: int32 [>= vocab_size, >= n]."""

    def observe(
        self,
        problem: Problem,
        texts: Texts,
        costs: np.ndarray,
        source: np.ndarray,
        best: np.ndarray,
        threads: int,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(value, block, tau) of each text: int32, int64, int64 [N]; (2**31 - 1, -1, -1) where value > best.

        costs: int32 [R, >= n]; source: int64 [sum U], the row of costs of each distinct token of each text;
        best: int32 [N].
        """

    def hits(
        self,
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
        """uint8 [N, last - first]: 1 where the statistic of resample first + t is <= value (int32 [N]).

        active: int64 [A], the texts to look at (other rows stay 0); limit: int64 [N], the number of hits after
        which the rest of a text's row does not matter; first, last: multiples of 32.
        """

    def tally(
        self,
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
        """(hits, used): int64 [N] each, of the resamples first .. stop - 1, in order, up to limit[a] hits of a text.

        used is the number of resamples looked at: stop - first, or up to the one that is hit number limit[a]. Both
        are 0 for texts that are not active. first: a multiple of 32. Arguments as for `hits`, which it counts.
        """

    def null_values(
        self,
        problem: Problem,
        texts: Texts,
        a: int,
        seed_key: np.ndarray,
        first: int,
        last: int,
        threads: int,
    ) -> np.ndarray:
        """The statistics of text a under resamples first .. last - 1 (first even): int32 [last - first]."""

    def observe_prefixes(self, problem: Problem, texts: Texts, costs: np.ndarray) -> np.ndarray:
        """The statistic of every prefix of the only text, aligned whole: int32 [m]. costs: int32 [U, >= n]."""

    def prefix_hits(
        self,
        problem: Problem,
        texts: Texts,
        value: np.ndarray,
        seed_key: np.ndarray,
        first: int,
        last: int,
        threads: int,
    ) -> np.ndarray:
        """How many of the resamples first .. last - 1 fit each prefix at least as well as value: int64 [m]."""


def resolve(name: str = "auto") -> Backend:
    """The backend called `name`, or what WMCORE_BACKEND says where `name` is "auto".

    Raises ValueError for an unknown name. A named backend works or raises ValueError with the real cause; "auto"
    takes "cuda" where CuPy and a device work, else "cpu".
    """
    said_by = "backend"
    if name == "auto" and "WMCORE_BACKEND" in os.environ:
        said_by, name = "WMCORE_BACKEND", os.environ["WMCORE_BACKEND"]
    if name not in BACKENDS:
        raise ValueError(f"{said_by} {name!r} is not known: use one of {', '.join(BACKENDS)}")
    if name != "cpu":
        cuda = importlib.import_module(".cuda", __name__)
        why_not = cuda.why_not()
        if why_not is None:
            return cuda
        if name == "cuda":
            raise ValueError(f'backend "cuda" cannot run here: {why_not}')
    return importlib.import_module(".cpu", __name__)
