"""A replica that fails requests runs one of its own, and ends only if that fails too."""

import asyncio
import functools

from omni_worker.engine.scheduler import Finished, RequestStatus
from omni_worker.errors import RequestError
from omni_worker.replica import self_check
from omni_worker.replica.self_check import SelfCheck
from omni_worker.requests import GenerationParams

COMPLETED, FAILED = RequestStatus.COMPLETED, RequestStatus.FAILED
EXAMPLE = GenerationParams(prompt="warm-up")
BROKEN = RuntimeError("no kernel image")


def in_loop(test):
    @functools.wraps(test)
    def run(*args, **kwargs):
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 20))

    return run


class Replica:
    """A replica's self-check, whose own requests end with `error`; records them."""

    def __init__(self, error=None, example=EXAMPLE):
        self.error, self.ran = error, []
        self.check = SelfCheck(self._run)
        self.check.example = example
        self.task = asyncio.create_task(self.check.run())

    async def _run(self, id, params):
        self.ran.append(params)
        return Finished(id, FAILED if self.error else COMPLETED, error=self.error)

    async def ends(self, *errors):
        """The ends of clients' requests, in order; None is a success."""
        for error in errors:
            self.check.on_finished(Finished("a", FAILED if error else COMPLETED, error=error), EXAMPLE)
        for _ in range(10):
            await asyncio.sleep(0)


@in_loop
async def test_a_broken_replica_ends_after_three_failures_in_a_row():
    replica = Replica(BROKEN)
    await replica.ends(BROKEN, BROKEN, None, BROKEN, BROKEN)
    assert replica.ran == []
    await replica.ends(BROKEN)
    assert "3 requests in a row failed, and so did one of the replica's own: RuntimeError" in await replica.task


@in_loop
async def test_bad_requests_do_not_end_a_replica_and_cost_few_checks():
    replica = Replica()
    await replica.ends(*[BROKEN] * 300)
    assert not replica.task.done()
    assert len(replica.ran) == 1, "the next check waits"


@in_loop
async def test_rejections_aborts_and_a_lack_of_memory_do_not_count():
    replica = Replica(BROKEN)
    await replica.ends(*[RequestError("invalid", "x")] * 5, *[MemoryError()] * 5, *[RequestError("busy", "x")] * 5)
    for _ in range(5):
        replica.check.on_finished(Finished("a", RequestStatus.ABORTED), EXAMPLE)
    await replica.ends(BROKEN, BROKEN)
    assert replica.ran == []
    await replica.ends(RequestError("failed", "scores that are no numbers"))
    assert len(replica.ran) == 1, "what is no number may come from the device"


@in_loop
async def test_a_check_that_is_rejected_or_finds_no_memory_proves_nothing(monkeypatch):
    monkeypatch.setattr(self_check, "PAUSE_SECONDS", 0.0)
    for error in (RequestError("invalid", "strength"), MemoryError()):
        replica = Replica(error)
        await replica.ends(*[BROKEN] * 3)
        await replica.ends(*[BROKEN] * 3)
        assert (len(replica.ran), replica.task.done()) == (2, False)


@in_loop
async def test_without_a_warm_up_the_first_request_served_is_the_example():
    replica = Replica(BROKEN, example=None)
    await replica.ends(*[BROKEN] * 3)
    assert (replica.ran, replica.task.done()) == ([], False)
    replica.check.on_finished(Finished("b", COMPLETED), GenerationParams(prompt="p", steps=50, preview_every=3))
    assert replica.check.example == GenerationParams(prompt="p", steps=2)
