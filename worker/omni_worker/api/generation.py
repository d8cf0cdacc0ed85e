"""From a client's request to the orchestrator and back: what all routes that generate have in common."""

import asyncio
import secrets
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from fastapi import Request

from omni_worker.api.errors import ApiError
from omni_worker.api.schemas import ErrorResponse
from omni_worker.errors import RequestError
from omni_worker.orchestrator.orchestrator import Orchestrator
from omni_worker.requests import SEED_LIMIT, GenerationRequest, GenerationResult

RANDOM_SEEDS = 2**32
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": why}
    for status, why in (
        (400, "The request is wrong: `param` names the field."),
        (404, "There is no such model."),
        (413, "The body is too large."),
        (429, "All queues are full: come again later."),
        (500, "A model failed on it: it would again."),
        (503, "No replica could take it in time: come again later."),
    )
}

Result = TypeVar("Result")


def seeds(asked: int | None, count: int) -> list[int]:
    """The seed of each of the answers: a request that gave none gets one here, so that it can be run again anywhere."""
    first = secrets.randbelow(RANDOM_SEEDS) if asked is None else asked
    return [(first + i) % SEED_LIMIT for i in range(count)]


def numbered(id: str, number: int, count: int) -> str:
    """The id of one of the requests that a client's request of this id is made of."""
    return id if count == 1 else f"{id}-{number}"


async def generate_all(orchestrator: Orchestrator, requests: Sequence[GenerationRequest]) -> list[GenerationResult]:
    """All results; where one fails the rest are aborted, for the answer is lost with it."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(orchestrator.generate(request)) for request in requests]
    except* RequestError as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is cancelled as soon as the client is gone. Raises ApiError 499 then."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(499, "the client closed the connection", code="aborted")
        return task.result()
    finally:
        gone.cancel()
        task.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
