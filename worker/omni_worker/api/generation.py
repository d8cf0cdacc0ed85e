"""What all routes that generate have in common: seeds, ids, calls of the orchestrator, and clients that disconnect."""

import asyncio
import contextlib
import re
import secrets
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from fastapi import Request
from msgspec.structs import replace

from omni_worker.api.access.keys import sender
from omni_worker.api.errors import ApiError
from omni_worker.api.schemas import ErrorResponse
from omni_worker.errors import RequestError
from omni_worker.orchestrator.handover import IMAGE
from omni_worker.orchestrator.orchestrator import Orchestrator
from omni_worker.requests import SEED_LIMIT, GenerationParams, GenerationRequest, GenerationResult

RANDOM_SEEDS = 2**32
"""Random seeds are below this."""
ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": why}
    for status, why in (
        (400, "The request is wrong: `param` names the field."),
        (404, "There is no such model."),
        (413, "The body is too large."),
        (415, "The body has another coding than gzip or deflate."),
        (429, "All queues are full: try again later."),
        (500, "A model failed on it: it would again."),
        (503, "No replica could take it in time: try again later."),
    )
}
"""The errors of these routes, for the OpenAPI page."""

IMAGES = frozenset({IMAGE})
"""The outputs of a request for anything but text."""

Result = TypeVar("Result")


def choose_seeds(seed: int | None, count: int) -> list[int]:
    """The seeds of `count` results: consecutive from `seed`, or from a random one.

    The head chooses random seeds itself, so that a replica that repeats a request gives the same result.
    """
    first = secrets.randbelow(RANDOM_SEEDS) if seed is None else seed
    return [(first + i) % SEED_LIMIT for i in range(count)]


def generation_requests(
    request: Request, seed: int | None, count: int, params: GenerationParams, outputs: frozenset[str] = IMAGES
) -> list[GenerationRequest]:
    """The generation requests for the `count` results that a client's request asks for. Result i has the seed + i."""
    id = request.state.request_id
    client = sender(request)
    return [
        GenerationRequest(
            id=id if count == 1 else f"{id}-{index}",
            params=replace(params, seed=own_seed),
            outputs=outputs,
            client_id=request.state.client_id,
            repeatable_by=None if seed is None else client.name if client else "",
        )
        for index, own_seed in enumerate(choose_seeds(seed, count))
    ]


async def generate_all(orchestrator: Orchestrator, requests: Sequence[GenerationRequest]) -> list[GenerationResult]:
    """The results of all requests. If one fails, the others are aborted and its RequestError is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(orchestrator.generate(request)) for request in requests]
    except* RequestError as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


@contextlib.contextmanager
def param_names(names: Mapping[str, str]) -> Iterator[None]:
    """In errors of the stages, replaces the names of parameters with those that the client knows."""
    try:
        yield
    except RequestError as error:
        if error.param is not None and (name := names.get(error.param)) is not None:
            error.message = re.sub(rf"^{re.escape(error.param)}:", f"{name}:", error.message)
            error.param = name
        raise


def count_tokens(results: Sequence[GenerationResult]) -> tuple[int, int]:
    """The tokens of a request's prompt, which all its results share, and the tokens generated for all of them."""
    completions = [result.completion for result in results if result.completion]
    prompt_tokens = max((completion.prompt_tokens for completion in completions), default=0)
    return prompt_tokens, sum(completion.token_count for completion in completions)


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`. Cancels it and raises ApiError 499 if the client disconnects first."""
    task = asyncio.ensure_future(work)
    disconnect = asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait({task, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(499, "the client closed the connection", code="aborted")
        return task.result()
    finally:
        disconnect.cancel()
        task.cancel()
        await asyncio.gather(task, disconnect, return_exceptions=True)


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
