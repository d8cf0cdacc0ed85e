"""The polling of all heads: each on its own, whatever the others do."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from omni_operator.controller.heads.head_api import HeadError
from omni_operator.controller.heads.poll_loop import THREADS, PollLoop
from omni_operator.controller.heads.poller import PollEntry, Poller
from omni_operator.crd.objects import PipelineKey
from omni_operator.crd.parsing import parse
from omni_operator.crd.spec.pipeline import OmniPipeline
from tests.operator.edits import edited

INTERVAL = 0.01


class Heads(Poller[PollEntry, int]):
    """Heads that answer as `answer` does. Every answer needs a pass."""

    def __init__(self, answer: Callable[[OmniPipeline], int], digits: dict[str, Any], *names: str) -> None:
        super().__init__(answer)
        for name in names:
            pipeline = parse(edited(digits, {"metadata.name": name}))
            self._entries[pipeline.namespace, name] = PollEntry(pipeline=pipeline)

    def _update(self, entry: PollEntry, answer: int | HeadError) -> bool:
        return not isinstance(answer, HeadError)


async def polled(heads: Heads, enough: Callable[[list[str]], bool]) -> list[str]:
    """The names of the pipelines that needed a pass, in order, until they are enough."""
    names: list[str] = []
    is_enough = asyncio.Event()

    def note(key: PipelineKey) -> None:
        names.append(key[1])
        if enough(names):
            is_enough.set()

    loop = asyncio.create_task(PollLoop([heads], note).run(INTERVAL))
    await asyncio.wait_for(is_enough.wait(), 60)
    loop.cancel()
    return names


def test_heads_that_hang_do_not_delay_one_that_answers(digits: dict[str, Any]) -> None:
    """More of them hang than there are threads, first in the usual threads, then in those for heads that failed."""
    release = threading.Event()

    def answer(pipeline: OmniPipeline) -> int:
        if pipeline.name != "healthy":
            release.wait(0.05)
            raise HeadError("no complete answer")
        return 1

    slow = [f"slow-{number}" for number in range(3 * THREADS)]
    heads = Heads(answer, digits, *slow, "healthy")

    def is_enough(names: list[str]) -> bool:
        if len(names) == 5:
            release.clear()
        return len(names) == 20

    try:
        assert set(asyncio.run(polled(heads, is_enough))) == {"healthy"}
        assert len(heads.failing_keys) == len(slow)
    finally:
        release.set()


def test_a_head_is_polled_again_only_after_its_last_poll(digits: dict[str, Any]) -> None:
    running, most = 0, 0
    lock = threading.Lock()

    def answer(pipeline: OmniPipeline) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        threading.Event().wait(5 * INTERVAL)
        with lock:
            running -= 1
        return 1

    asyncio.run(polled(Heads(answer, digits, "slow"), lambda names: len(names) == 4))
    assert most == 1


@pytest.mark.parametrize("defect", [OverflowError("inf"), RecursionError(), MemoryError(), AttributeError("x")])
def test_no_error_of_one_head_ends_the_polling(digits: dict[str, Any], defect: Exception) -> None:
    def answer(pipeline: OmniPipeline) -> int:
        if pipeline.name == "broken":
            raise defect
        return 1

    names = asyncio.run(polled(Heads(answer, digits, "broken", "healthy"), lambda names: len(names) == 5))
    assert set(names) == {"healthy"}
