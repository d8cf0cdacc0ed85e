"""When the events of the engine are delivered in the event loop."""

import asyncio
import threading

import pytest

from omni_worker.engine.scheduler import Finished, RequestProgress, RequestStatus, SchedulerEvent
from omni_worker.replica import events
from omni_worker.replica.events import EventBridge
from omni_worker.requests import GeneratedText


def step(number: int) -> RequestProgress:
    return RequestProgress("a", number, 9)


WRITTEN = RequestProgress("a", 1, 9, GeneratedText(text="so", tokens=[1]))
FINISHED = Finished("a", RequestStatus.COMPLETED)


async def turn() -> None:
    """Let the event loop run its callbacks, but no timers."""
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.fixture
def rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress is delivered once, and not again during the test."""
    monkeypatch.setattr(events, "PROGRESS_SECONDS", 3600.0)


@pytest.mark.parametrize(
    ("put", "delivered"),
    [
        pytest.param([[step(1)]], [[step(1)]], id="the first step is delivered at once"),
        pytest.param([[step(1)], [step(2)]], [[step(1)], []], id="the next one waits"),
        pytest.param(
            [[step(1)], [step(2), FINISHED]],
            [[step(1)], [step(2), FINISHED]],
            id="an end is delivered, and all before",
        ),
        pytest.param([[step(0)], [WRITTEN]], [[step(0)], [WRITTEN]], id="text is delivered"),
    ],
)
def test_results_are_delivered_at_once_and_progress_now_and_then(rest, put, delivered) -> None:
    async def run() -> list[list[SchedulerEvent]]:
        got: list[SchedulerEvent] = []
        found = []
        bridge = EventBridge(asyncio.get_running_loop(), got.append)
        for some in put:
            for event in some:
                bridge.put(event)
            await turn()
            found.append(got[:])
            got.clear()
        return found

    assert asyncio.run(run()) == delivered


def test_the_last_step_before_a_pause_is_not_kept_for_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "PROGRESS_SECONDS", 0.01)

    async def run() -> None:
        got: list[SchedulerEvent] = []
        all_there = asyncio.Event()

        def deliver(event: SchedulerEvent) -> None:
            got.append(event)
            if event == step(2):
                all_there.set()

        bridge = EventBridge(asyncio.get_running_loop(), deliver)
        bridge.put(step(1))
        await turn()
        bridge.put(step(2))
        await asyncio.wait_for(all_there.wait(), 120)
        assert got == [step(1), step(2)]

    asyncio.run(run())


def test_a_thread_that_puts_without_end_loses_none_and_keeps_their_order() -> None:
    count = 5_000

    async def run() -> None:
        got: list[SchedulerEvent] = []
        ended = asyncio.Event()

        def deliver(event: SchedulerEvent) -> None:
            got.append(event)
            if isinstance(event, Finished):
                ended.set()

        bridge = EventBridge(asyncio.get_running_loop(), deliver)

        def put() -> None:
            for number in range(count):
                bridge.put(step(number))
            bridge.put(FINISHED)

        thread = threading.Thread(target=put)
        thread.start()
        await asyncio.wait_for(ended.wait(), 120)
        thread.join()
        assert got == [*map(step, range(count)), FINISHED]

    asyncio.run(run())
