"""Sends the requests of a benchmark, as a closed loop or as an open loop.

A closed loop keeps a fixed number of requests running. An open loop sends each request when it is due. Latency counts
from that time, even if the request could only be sent later, so a server that falls behind shows it.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx

from omni_operator.client.endpoint import Endpoint
from omni_operator.client.errors import error_message
from omni_operator.commands.bench.workload import BenchRequest

CONNECT_SECONDS = 30.0


@dataclass(frozen=True)
class Sample:
    """The result of a request.

    `at` is when it ended, in seconds since its round started. `latency` is in seconds. `error` is None if it
    succeeded. `tokens` counts generated text.
    """

    kind: str
    at: float
    latency: float
    error: str | None = None
    tokens: int = 0


@dataclass(frozen=True)
class Round:
    """The samples of one period of load on one pipeline, and its seconds until the last response."""

    samples: list[Sample]
    seconds: float


OnSample = Callable[[Sample], None]


def run_round(
    endpoint: Endpoint,
    requests: Iterator[BenchRequest],
    concurrency: int,
    seconds: float | None,
    on_sample: OnSample,
) -> Round:
    """Send requests until they or `seconds` run out, and wait for the responses to those that still run.

    If the first request has a due time, this is an open loop. Otherwise `concurrency` requests run at a time.
    """
    return asyncio.run(_run_round(endpoint, requests, concurrency, seconds, on_sample))


async def _run_round(
    endpoint: Endpoint,
    requests: Iterator[BenchRequest],
    concurrency: int,
    seconds: float | None,
    on_sample: OnSample,
) -> Round:
    samples: list[Sample] = []
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    timeout = httpx.Timeout(None, connect=CONNECT_SECONDS)
    async with httpx.AsyncClient(timeout=timeout, limits=limits, **endpoint.connection) as client:
        start = time.monotonic()
        end = float("inf") if seconds is None else start + seconds

        async def send(request: BenchRequest, due: float) -> None:
            error, tokens = await _send(client, request)
            now = time.monotonic()
            samples.append(Sample(request.kind, now - start, now - due, error, tokens))
            on_sample(samples[-1])

        async def send_one_after_another() -> None:
            for request in requests:
                await send(request, time.monotonic())
                if time.monotonic() >= end:
                    return

        async with asyncio.TaskGroup() as group:
            first = next(requests, None)
            if first is None:
                return Round([], 0.0)
            requests = _prepend(first, requests)
            if first.due is None:
                for _ in range(concurrency):
                    group.create_task(send_one_after_another())
            else:
                for request in requests:
                    due = start + (request.due or 0.0)
                    if due >= end:
                        break
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                    group.create_task(send(request, due))
        return Round(samples, time.monotonic() - start)


def _prepend(first: BenchRequest, rest: Iterator[BenchRequest]) -> Iterator[BenchRequest]:
    yield first
    yield from rest


async def _send(client: httpx.AsyncClient, request: BenchRequest) -> tuple[str | None, int]:
    """Why a request failed, or None, and the number of generated tokens."""
    try:
        response = await client.post(request.path, json=request.body)
    except httpx.HTTPError as error:
        return f"{type(error).__name__}: {error}".rstrip(": "), 0
    if response.status_code != 200:
        return f"{response.status_code}: {error_message(response)[0]}", 0
    try:
        content = response.json()
        return None, int((content.get("usage") or {}).get("completion_tokens", 0)) if "choices" in content else 0
    except (ValueError, AttributeError, TypeError):
        return "the answer is not JSON", 0
