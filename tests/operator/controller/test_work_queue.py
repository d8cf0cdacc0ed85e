"""The queue between events and workers."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from omni_operator.controller.work_queue import KeyedQueue


def on_a_loop(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 20))


def is_empty(queue: KeyedQueue[str]) -> bool:
    return queue.age() == 0.0


def test_a_key_waits_once_however_often_it_is_added() -> None:
    async def scenario() -> None:
        queue = KeyedQueue[str]()
        for key in ("a", "b", "a", "a"):
            queue.add(key)
        assert [await queue.get(), await queue.get()] == ["a", "b"]
        queue.succeeded("a")
        queue.succeeded("b")
        assert is_empty(queue)

    on_a_loop(scenario())


def test_a_key_added_during_its_work_is_worked_on_once_more_and_never_by_two() -> None:
    async def scenario() -> None:
        queue = KeyedQueue[str]()
        queue.add("a")
        assert await queue.get() == "a"
        queue.add("a")
        queue.add("a")
        queue.add("b")
        assert await queue.get() == "b", "the key at work must not be handed out"
        queue.succeeded("b")
        queue.succeeded("a")
        assert await queue.get() == "a"
        queue.succeeded("a")
        assert is_empty(queue)

    on_a_loop(scenario())


def test_what_is_urgent_goes_before_what_is_not_also_if_it_waits_already() -> None:
    async def scenario() -> None:
        queue = KeyedQueue[str]()
        for key, is_urgent in (("a", False), ("b", False), ("c", True), ("b", True), ("c", False)):
            queue.add(key, is_urgent)
        assert queue.depth() == 3
        assert [await queue.get() for _ in range(3)] == ["c", "b", "a"]
        queue.add("d")
        queue.add("a", is_urgent=True)
        queue.add("a")
        queue.succeeded("a")
        assert await queue.get() == "a", "urgent although it was worked on when it came"

    on_a_loop(scenario())


def test_a_server_that_asks_for_patience_gets_it() -> None:
    async def scenario() -> None:
        queue = KeyedQueue[str](first=0.001)
        queue.add("a")
        await queue.get()
        assert queue.failed("a", least=7.0) == 7.0

    on_a_loop(scenario())


def test_a_worker_waits_for_a_key() -> None:
    async def scenario() -> None:
        queue = KeyedQueue[str]()
        waiting = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        assert not waiting.done()
        queue.add("a")
        assert await waiting == "a"

    on_a_loop(scenario())


def test_a_failing_key_comes_back_later_and_later_until_it_succeeds() -> None:
    async def scenario() -> None:
        queue = KeyedQueue[str](first=0.001, most=0.01)
        queue.add("a")
        delays = []
        for _ in range(6):
            assert await queue.get() == "a"
            delays.append(queue.failed("a"))
        assert delays[:4] == sorted(delays[:4])
        assert delays[3] > 4 * delays[0]
        assert max(delays) <= 0.011
        assert await queue.get() == "a"
        queue.succeeded("a")
        queue.add("a")
        assert await queue.get() == "a"
        assert queue.failed("a") <= 0.0011, "success forgets the failures before"

    on_a_loop(scenario())


def test_an_event_does_not_wait_for_the_delay_of_a_failure() -> None:
    async def scenario() -> None:
        queue = KeyedQueue[str](first=3600.0, most=3600.0)
        queue.add("a")
        await queue.get()
        queue.failed("a")
        queue.add("a")
        assert await queue.get() == "a"

    on_a_loop(scenario())


def test_a_failure_of_one_key_does_not_hold_up_another() -> None:
    async def scenario() -> None:
        queue = KeyedQueue[str](first=3600.0)
        queue.add("a")
        queue.add("b")
        queue.failed(await queue.get())
        assert await queue.get() == "b"

    on_a_loop(scenario())
