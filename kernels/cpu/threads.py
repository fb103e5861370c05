"""A thread pool for kernels that release the GIL (not Numba's `prange`: two Python threads in it abort the host).

No lock of ours is held here, so no forked child or signal handler can wait for one. The pool's own locks are remade by
Python after a fork; a signal handler that comes back here while its thread holds one works without the pool.
"""

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import pairwise

_pools: dict[int, ThreadPoolExecutor] = {}
_caller = threading.local()  # inside: whether this thread is in a call of `run` that uses a pool

# After a fork the child has no threads: it makes its own pools.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)


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
    if threads == 1 or len(jobs) <= 1 or getattr(_caller, "inside", False):
        for job in jobs:
            function(*job)
        return
    futures: list[Future] = []
    try:
        _caller.inside = True
        pool = _pools.get(threads)
        if (
            pool is None
        ):  # of two that are made at once, one is kept, and the other never gets a thread
            made = ThreadPoolExecutor(threads, thread_name_prefix="wmcore")
            pool = _pools.setdefault(threads, made)
        for job in jobs:
            futures.append(pool.submit(function, *job))
        for future in futures:
            future.result()
    except BaseException:  # an error, or Ctrl-C: what has not begun need not begin
        for future in futures:
            future.cancel()
        wait(futures)
        raise
    finally:
        _caller.inside = False


def slices(count: int, pieces: int) -> list[tuple[int, int]]:
    """At most `pieces` ranges (first, last) of about the same size that cover range(count)."""
    pieces = max(1, min(pieces, count))
    edges = [count * p // pieces for p in range(pieces + 1)]
    return [(a, b) for a, b in pairwise(edges) if a < b]
