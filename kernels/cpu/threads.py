"""A thread pool for kernels that release the GIL (not Numba's `prange`: two Python threads in it abort the host)."""

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise

_pools: dict[int, ThreadPoolExecutor] = {}
_lock = threading.Lock()


def _forget_pools() -> None:
    """After a fork the child has no threads: it makes its own pools."""
    global _lock
    _lock = threading.Lock()
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pools)


def available() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run(function: Callable[..., object], jobs: Iterable[Sequence], threads: int) -> None:
    """Call function(*job) for every job, on that many threads.

    The first error is raised when what runs has ended; jobs that have not begun are left out.
    """
    jobs = list(jobs)
    if threads == 1 or len(jobs) <= 1:
        for job in jobs:
            function(*job)
        return
    with _lock:
        if threads not in _pools:
            _pools[threads] = ThreadPoolExecutor(threads, thread_name_prefix="wmcore")
        pool = _pools[threads]
    futures = [pool.submit(function, *job) for job in jobs]
    try:
        for future in futures:
            future.result()
    except BaseException:  # an error, or Ctrl-C: what has not begun need not begin
        for future in futures:
            future.cancel()
        wait(futures)
        raise


def slices(count: int, pieces: int) -> list[tuple[int, int]]:
    """At most `pieces` ranges (first, last) of about the same size that cover range(count)."""
    pieces = max(1, min(pieces, count))
    edges = [count * p // pieces for p in range(pieces + 1)]
    return [(a, b) for a, b in pairwise(edges) if a < b]
