"""From a client's request to the orchestrator and back: what all routes that generate have in common."""

import asyncio
import secrets
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from fastapi import Request

from omni_worker.api.errors import ApiError
from omni_worker.api.schemas import ErrorResponse, Generation
from omni_worker.errors import RequestError
from omni_worker.orchestrator.orchestrator import Orchestrator
from omni_worker.requests import SEED_LIMIT, GenerationRequest, GenerationResult, ModelCard

RANDOM_SEEDS = 2**32
ERRORS: dict[int | str, dict[str, Any]] = {status: {"model": ErrorResponse} for status in (400, 404, 429, 500, 503)}

Result = TypeVar("Result")


def check(body: Generation, model: str, orchestrator: Orchestrator) -> None:
    """Refuse at once what a stage would refuse later. Raises ApiError or RequestError, naming the field."""
    if body.model not in (None, model):
        raise ApiError(404, f"there is no model {body.model!r}; this server has {model!r}", "model", "model_not_found")
    for pool in orchestrator.pools:
        if pool.stage.engine == "diffusion":
            for member in pool.up[:1]:
                _check_card(body, member.replica.card)


def _check_card(body: Generation, card: ModelCard) -> None:
    width, height = body.width_and_height
    if width and height and not card.sized:
        raise RequestError("invalid", f"{card.pipeline} has a fixed size: leave size out", "size")
    for side, length in (("width", width), ("height", height)):
        if length and length % card.size_multiple:
            raise RequestError(
                "invalid", f"size {body.size!r}: the {side} must be a multiple of {card.size_multiple}", "size"
            )
    if body.negative_prompt is not None and not card.negative_prompt:
        raise RequestError("invalid", f"{card.pipeline} takes no negative prompt", "negative_prompt")
    if body.guidance is not None and not card.guidance:
        raise RequestError("invalid", f"{card.pipeline} takes no guidance", "guidance_scale")


def seeds(body: Generation) -> list[int]:
    """The seed of each of the answers: a request that gave none gets one here, so that it can be run again anywhere."""
    first = secrets.randbelow(RANDOM_SEEDS) if body.seed is None else body.seed
    return [(first + i) % SEED_LIMIT for i in range(body.n)]


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
