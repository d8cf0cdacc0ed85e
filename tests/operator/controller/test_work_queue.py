"""The queue between watch events and workers."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from omni_operator.controller.work_queue import WorkQueue


def on_a_loop(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 20))


def is_empty(queue: WorkQueue[str]) -> bool:
    return queue.oldest_age() == 0.0


def test_a_key_waits_once_however_often_it_is_added() -> None:
    async def scenario() -> None:
        queue = WorkQueue[str]()
        for key in ("a", "b", "a", "a"):
            queue.add(key)
        assert [await queue.get(), await queue.get()] == ["a", "b"]
        queue.finish("a")
        queue.finish("b")
        assert is_empty(queue)

    on_a_loop(scenario())


def test_a_key_added_while_active_is_worked_on_once_more_but_never_by_two() -> None:
    async def scenario() -> None:
        queue = WorkQueue[str]()
        queue.add("a")
        assert await queue.get() == "a"
        queue.add("a")
        queue.add("a")
        queue.add("b")
        assert await queue.get() == "b", "an active key must not be handed out"
        queue.finish("b")
        queue.finish("a")
        assert await queue.get() == "a"
        queue.finish("a")
        assert is_empty(queue)

    on_a_loop(scenario())


def test_an_urgent_key_overtakes_others_even_if_it_waits_already() -> None:
    async def scenario() -> None:
        queue = WorkQueue[str]()
        for key, is_urgent in (("a", False), ("b", False), ("c", True), ("b", True), ("c", False)):
            queue.add(key, is_urgent)
        assert queue.depth() == 3
        assert [await queue.get() for _ in range(3)] == ["c", "b", "a"]
        queue.add("d")
        queue.add("a", is_urgent=True)
        queue.add("a")
        queue.finish("a")
        assert await queue.get() == "a", "it was added as urgent while it was active"

    on_a_loop(scenario())


def test_what_happens_to_a_key_soon_after_its_work_is_handled_in_one_go_and_an_urgent_one_does_not_wait() -> None:
    async def scenario() -> None:
        queue = WorkQueue[str](rest=3600)
        queue.add("a")
        assert await queue.get() == "a"
        queue.add("a")  # an echo of the work, during it
        queue.finish("a")
        queue.add("a")  # and after it
        assert queue.depth() == 0
        queue.add("b")
        queue.add("a", is_urgent=True)
        assert [await queue.get(), await queue.get()] == ["a", "b"]
        queue.add("a", is_urgent=True)
        queue.finish("a")
        assert await queue.get() == "a"
        queue.retry("a")
        queue.add("a")
        assert await queue.get() == "a", "a failure has no echo"

    on_a_loop(scenario())


def test_a_key_that_rests_is_worked_on_once_afterwards_if_it_was_added() -> None:
    async def scenario() -> None:
        queue = WorkQueue[str](rest=0.05)
        for key in ("a", "b"):
            queue.add(key)
        assert [await queue.get(), await queue.get()] == ["a", "b"]
        for key in ("a", "b"):
            queue.finish(key)
        queue.add("a")
        queue.add("a")
        assert await queue.get() == "a"
        queue.finish("a")
        queue.add("b")
        assert await queue.get() == "b"
        assert queue.depth() == 0

    on_a_loop(scenario())


def test_the_delay_is_at_least_what_the_server_asks_for() -> None:
    async def scenario() -> None:
        queue = WorkQueue[str](first_delay=0.001)
        queue.add("a")
        await queue.get()
        assert queue.retry("a", min_delay=7.0) == 7.0

    on_a_loop(scenario())


def test_a_worker_waits_for_a_key() -> None:
    async def scenario() -> None:
        queue = WorkQueue[str]()
        waiting = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        assert not waiting.done()
        queue.add("a")
        assert await waiting == "a"

    on_a_loop(scenario())


def test_the_delay_grows_with_each_failure_until_a_success() -> None:
    async def scenario() -> None:
        queue = WorkQueue[str](first_delay=0.001, max_delay=0.01)
        queue.add("a")
        delays = []
        for _ in range(6):
            assert await queue.get() == "a"
            delays.append(queue.retry("a"))
        assert delays[:4] == sorted(delays[:4])
        assert delays[3] > 4 * delays[0]
        assert max(delays) <= 0.011
        assert await queue.get() == "a"
        queue.finish("a")
        queue.add("a")
        assert await queue.get() == "a"
        assert queue.retry("a") <= 0.0011, "a success resets the delay"

    on_a_loop(scenario())


def test_a_new_event_does_not_wait_for_the_delay_of_a_failure() -> None:
    async def scenario() -> None:
        queue = WorkQueue[str](first_delay=3600.0, max_delay=3600.0)
        queue.add("a")
        await queue.get()
        queue.retry("a")
        queue.add("a")
        assert await queue.get() == "a"

    on_a_loop(scenario())


def test_a_failed_key_does_not_delay_another() -> None:
    async def scenario() -> None:
        queue = WorkQueue[str](first_delay=3600.0)
        queue.add("a")
        queue.add("b")
        queue.retry(await queue.get())
        assert await queue.get() == "b"

    on_a_loop(scenario())
