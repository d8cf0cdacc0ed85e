"""Sends the requests of a benchmark: closed loop, where so many are always under way, or open loop, where each is due.

Latency counts from when a request was due, not from when it could be sent, so a server that falls behind shows it.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx

from omni_operator.client.endpoint import Endpoint
from omni_operator.client.errors import message
from omni_operator.commands.bench.work import Work

Heard = Callable[["Sample"], None]


@dataclass(frozen=True)
class Sample:
    """What became of a request: `at` is its end from the beginning of its round, both in seconds; `tokens` of text."""

    kind: str
    at: float
    latency: float
    error: str | None = None
    tokens: int = 0


@dataclass(frozen=True)
class Round:
    """The samples of one stretch of load on one pipeline, and how long it took until the last answer."""

    samples: list[Sample]
    seconds: float


def send(where: Endpoint, works: Iterator[Work], concurrency: int, seconds: float | None, heard: Heard) -> Round:
    """Run until `works` or `seconds` end, and what is under way then is answered. `concurrency` is the closed loop's;
    requests that are due take no notice of it."""
    return asyncio.run(_send(where, works, concurrency, seconds, heard))


async def _send(where: Endpoint, works: Iterator[Work], concurrency: int, seconds: float | None, heard: Heard) -> Round:
    samples: list[Sample] = []
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    timeout = httpx.Timeout(None, connect=30.0)
    async with httpx.AsyncClient(
        base_url=where.url, verify=where.verify, headers=where.headers, timeout=timeout, limits=limits
    ) as client:
        begin = time.monotonic()
        end = float("inf") if seconds is None else begin + seconds

        async def ask(work: Work, due: float) -> None:
            error, tokens = await _ask(client, work)
            now = time.monotonic()
            samples.append(Sample(work.kind, now - begin, now - due, error, tokens))
            heard(samples[-1])

        async def after_another() -> None:
            for work in works:
                await ask(work, time.monotonic())
                if time.monotonic() >= end:
                    return

        async with asyncio.TaskGroup() as group:
            first = next(works, None)
            if first is None:
                return Round([], 0.0)
            if first.due is None:
                works = _again(first, works)
                for _ in range(concurrency):
                    group.create_task(after_another())
            else:
                for work in _again(first, works):
                    due = begin + (work.due or 0.0)
                    if due >= end:
                        break
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                    group.create_task(ask(work, due))
        return Round(samples, time.monotonic() - begin)


def _again(first: Work, rest: Iterator[Work]) -> Iterator[Work]:
    yield first
    yield from rest


async def _ask(client: httpx.AsyncClient, work: Work) -> tuple[str | None, int]:
    """Why it failed, or None; and the tokens that were written."""
    try:
        response = await client.post(work.path, json=work.body)
    except httpx.HTTPError as error:
        return f"{type(error).__name__}: {error}".rstrip(": "), 0
    if response.status_code != 200:
        return f"{response.status_code}: {message(response)[0]}", 0
    try:
        answer = response.json()
        return None, int((answer.get("usage") or {}).get("completion_tokens", 0)) if "choices" in answer else 0
    except (ValueError, AttributeError, TypeError):
        return "the answer is not JSON", 0
