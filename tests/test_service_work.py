"""`Queue`: one step at a time, so many requests that wait, so many seconds."""

import asyncio
import threading
import time

import pytest

from wmcore.service.refusals import Refused
from wmcore.service.routes import Lines
from wmcore.service.work import Queue


def refused(error):
    return error.value.status, error.value.headers


def test_steps_run_one_at_a_time_and_in_order():
    running, order = [], []

    def step(number):
        running.append(number)
        assert running == [number]
        time.sleep(0.01)
        running.remove(number)
        order.append(number)
        return number * 10

    async def request(queue, number):
        async with queue.turn() as turn:
            first = await turn.run(lambda: step(number))
            return [first, await turn.run(lambda: step(number))]

    async def all_of_them():
        queue = Queue(waiting=10, seconds=20)
        return await asyncio.gather(*(request(queue, number) for number in range(5)))

    assert asyncio.run(all_of_them()) == [[n * 10] * 2 for n in range(5)]
    assert order == [
        n for n in range(5) for _ in range(2)
    ]  # nobody comes between a request's steps


def test_no_more_wait_than_the_limit():
    async def main():
        queue, go = Queue(waiting=2, seconds=20), threading.Event()

        async def request():
            async with queue.turn() as turn:
                return await turn.run(lambda: go.wait(20))

        first = [asyncio.create_task(request()) for _ in range(3)]
        await asyncio.sleep(0.05)
        with pytest.raises(Refused) as error:
            await request()
        assert refused(error)[0] == 429
        assert 1 <= int(refused(error)[1]["Retry-After"]) <= 20
        go.set()
        assert await asyncio.gather(*first) == [True] * 3
        assert await request()  # there is room again

    asyncio.run(main())


@pytest.mark.timeout(30)
def test_a_late_request_is_answered_and_the_next_waits_for_its_step():
    async def main():
        queue, go = Queue(waiting=5, seconds=0.2), threading.Event()
        late, other = [], []
        with pytest.raises(Refused) as error:
            async with queue.turn() as turn:
                await turn.run(lambda: late.append(go.wait(20)))
        assert refused(error)[0] == 503
        with pytest.raises(Refused) as error:  # the step still runs: nothing else may
            async with queue.turn() as turn:
                other.append(await turn.run(lambda: 1))
        assert refused(error)[0] == 503
        assert not late
        assert not other
        go.set()
        async with queue.turn() as turn:
            assert await turn.run(lambda: 2) == 2
        assert late == [True]

    asyncio.run(main())


def test_no_step_begins_after_the_time_is_over():
    async def main():
        queue, ran = Queue(waiting=5, seconds=0.1), []

        async def request():
            async with queue.turn() as turn:
                await turn.run(lambda: ran.append(1))
                await asyncio.sleep(0.15)
                await turn.run(lambda: ran.append(2))

        with pytest.raises(Refused) as error:
            await request()
        assert refused(error)[0] == 503
        assert ran == [1]

    asyncio.run(main())


def test_an_error_of_a_step_comes_back_and_gives_the_turn_back():
    def fail():
        raise TimeoutError("the step's own")

    async def main():
        queue = Queue(waiting=0, seconds=20)
        for _ in range(3):
            with pytest.raises(TimeoutError, match="the step's own"):
                async with queue.turn() as turn:
                    await turn.run(fail)
        task = asyncio.create_task(_forever(queue))
        await asyncio.sleep(0.02)
        task.cancel()  # as when the client goes
        await asyncio.gather(task, return_exceptions=True)
        async with queue.turn() as turn:
            assert await turn.run(lambda: 3) == 3
        queue.close()

    asyncio.run(main())


async def _forever(queue):
    async with queue.turn():
        await asyncio.sleep(60)


def test_a_client_that_does_not_read_its_stream_gives_the_turn_back():
    async def main():
        queue = Queue(waiting=0, seconds=20)

        async def lines():
            async with queue.turn():
                while True:
                    yield "{}\n"

        async def full(message):
            if message["type"] == "http.response.body":
                await asyncio.sleep(60)  # as a connection whose other end does not read

        scope = {"type": "http", "asgi": {"spec_version": "2.4"}}
        await asyncio.wait_for(Lines(lines(), 0.1)(scope, None, full), 10)
        async with queue.turn():
            return True

    assert asyncio.run(main())
