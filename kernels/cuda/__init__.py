"""The CUDA backend: kernels compiled at run time by CuPy. See `kernels.Backend` for what each function does.

`threads` and `limit` are the CPU's and change nothing here: all resamples of a call are decided.
"""

import weakref
from typing import Any

import numpy as np

from ..packing import Problem, Texts
from .host import Host

NAME = "cuda"

_tables: dict[int, tuple[Any, Any]] = {}  # id of a host table: (a weak reference to it, its copy)


def why_not() -> str | None:
    """Why this backend cannot run here, with the remedy; None where it can."""
    from .device import why_not

    return why_not()


def _host() -> Host:
    from .device import device

    return Host(device())


def exp_costs(secret: np.ndarray, tokens: np.ndarray, n: int, threads: int) -> np.ndarray:
    return _host().exp_costs(secret, tokens, n)


def exp_table(secret: np.ndarray, vocab_size: int, n: int, threads: int) -> np.ndarray:
    table, resident = _host().exp_table(secret, vocab_size, n)
    table.flags.writeable = False
    # Detection comes back with this very array: what is on the device already is not sent again.
    key = id(table)
    _tables[key] = (weakref.ref(table, lambda _: _tables.pop(key, None)), resident)
    return table


def observe(
    problem: Problem,
    texts: Texts,
    costs: np.ndarray,
    source: np.ndarray,
    best: np.ndarray,
    threads: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    reference, resident = _tables.get(id(costs), (lambda: None, None))
    known = resident if reference() is costs else costs
    return _host().observe(problem, texts, known, source, best)


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
    return _host().hits(problem, texts, value, active, seed_key, first, last)


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
    return _host().tally(problem, texts, value, active, limit, seed_key, first, stop)


def null_values(
    problem: Problem,
    texts: Texts,
    a: int,
    seed_key: np.ndarray,
    first: int,
    last: int,
    threads: int,
) -> np.ndarray:
    return _host().null_values(problem, texts, a, seed_key, first, last)


def observe_prefixes(problem: Problem, texts: Texts, costs: np.ndarray) -> np.ndarray:
    return _host().observe_prefixes(problem, texts, costs)


def prefix_hits(
    problem: Problem,
    texts: Texts,
    value: np.ndarray,
    seed_key: np.ndarray,
    first: int,
    last: int,
    threads: int,
) -> np.ndarray:
    return _host().prefix_hits(problem, texts, value, seed_key, first, last)
