"""The queue: tests run in a thread, one at a time, and no more requests wait than a limit allows.

A test uses all cores, so a second beside it would only make both slower. A request's texts are tested in steps; between
two steps the time limit and the client are looked at. A step that is under way cannot be stopped: its request is
answered when its time is over, and the next one waits until the step is done, so that no more than one runs at a time.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from wmcore.service.refusals import Refused, too_busy

T = TypeVar("T")


class Queue:
    """Turns of requests.

    Parameters
    ----------
    waiting : int
        Requests that may wait; one more is refused with 429.
    seconds : float
        Time of a request, waiting included.
    """

    def __init__(self, waiting: int, seconds: float) -> None:
        self._most = waiting
        self._seconds = seconds
        self._waiting = 0
        self._free = asyncio.Semaphore(1)
        self._pool = ThreadPoolExecutor(1, "wmcore-detect")

    @asynccontextmanager
    async def turn(self) -> AsyncIterator["Turn"]:
        """Wait for the thread, and have it until the end of the block. Refused (429, 503) if it takes too long."""
        deadline = asyncio.get_running_loop().time() + self._seconds
        if self._free.locked() and self._waiting >= self._most:
            raise too_busy(
                f"{self._waiting:,} requests wait already",
                math.ceil(min(self._seconds, 1 + self._waiting)),
                limit=self._most,
            )
        self._waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                await self._free.acquire()
        except TimeoutError:
            raise _late(self._seconds) from None
        finally:
            self._waiting -= 1
        turn = Turn(self._pool, deadline, self._seconds)
        try:
            yield turn
        finally:
            turn.leave(self._free.release)

    def close(self) -> None:
        """Start no more steps."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class Turn:
    """The right to run steps in the thread."""

    def __init__(self, pool: ThreadPoolExecutor, deadline: float, seconds: float) -> None:
        self._pool = pool
        self._deadline = deadline
        self._seconds = seconds
        self._step: asyncio.Future[Any] | None = None

    async def run(self, step: Callable[[], T]) -> T:
        """What a step gives. Refused (503) if it is not done in time."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._deadline:
            raise _late(self._seconds)
        self._step = future = loop.run_in_executor(self._pool, step)
        try:
            async with asyncio.timeout_at(self._deadline):
                return await asyncio.shield(future)
        except TimeoutError:
            if future.done():  # the step's own
                raise
            raise _late(self._seconds) from None

    def leave(self, release: Callable[[], None]) -> None:
        """Release the thread, at once or when the step that is under way is done."""
        step = self._step
        if step is None or step.done():
            release()
            return

        def ended(future: asyncio.Future[Any]) -> None:
            if not future.cancelled():
                future.exception()  # nobody waits for it: seen, so that nobody is told
            release()

        step.add_done_callback(ended)


def _late(seconds: float) -> Refused:
    return Refused(
        503,
        f"there was no answer within {seconds:g} s",
        limit=seconds,
        remedy="send fewer or shorter texts, or ask again later",
        headers={"Retry-After": str(math.ceil(seconds))},
    )
