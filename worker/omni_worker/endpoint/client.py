"""Runs requests on a stage's server, in the place of a replica: streams, retries, gives up in time, and aborts.

A call is made again only before any of its text was passed on: nobody can tell a server to continue a text. The request
has a seed, so a second answer is the first one's where the server keeps its promise.
"""

import asyncio
import contextlib
import logging
import random
import time

from omni_worker.config.endpoint import Endpoint
from omni_worker.coordinator.loras import WantedLoras
from omni_worker.endpoint.chat import Answer, chat_body
from omni_worker.endpoint.failures import EndpointFailure
from omni_worker.endpoint.http import EndpointHttp
from omni_worker.errors import RequestError
from omni_worker.replica.client import OnUpdate
from omni_worker.replica.wire.messages import Partial, Progress, Trace
from omni_worker.requests import GenerationParams, GenerationResult

log = logging.getLogger(__name__)
CHAT = "chat/completions"
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.5, 8.0
MAX_RETRY_AFTER_SECONDS = 30.0
"""A server that asks for a longer pause is left to the client to try again."""


class EndpointClient:
    """The calls to the server of the stage with this name.

    in_flight: requests that run there now
    completed, seconds, pieces: since the head started: answers, the time they took, and the pieces they came in
    answered_at: when it last answered, on the monotonic clock
    failed: is set when a call found the server down
    """

    def __init__(self, stage: str, endpoint: Endpoint, http: EndpointHttp) -> None:
        self.name = f"the server of stage {stage!r} ({endpoint.url})"
        self.in_flight = self.completed = self.pieces = 0
        self.seconds = 0.0
        self.answered_at = float("-inf")
        self.failed = asyncio.Event()
        self._endpoint = endpoint
        self._http = http

    async def generate(
        self,
        id: str,
        params: GenerationParams,
        on_update: OnUpdate,
        refusable: bool = True,
        trace: Trace | None = None,
    ) -> GenerationResult:
        """Run one request and return its result. Cancelling it closes the connection, so that the server stops.

        Raises RequestError, which names the stage, the server, and what the server said.
        """
        self.in_flight += 1
        try:
            async with asyncio.timeout(self._endpoint.timeout_seconds):
                return await self._with_retries(id, params, on_update, trace)
        except TimeoutError:
            seconds = self._endpoint.timeout_seconds
            problem = f"gave no complete answer within {seconds:g} s (endpoint.timeoutSeconds)"
            raise RequestError("unavailable", f"{self.name} {problem}") from None
        except EndpointFailure as failure:
            raise failure.to_error(self.name) from None
        finally:
            self.in_flight -= 1

    async def hand_back(self) -> None:
        """Nothing: a server does not drain."""

    async def want_loras(self, wanted: WantedLoras) -> None:
        """Nothing: a server has adapters of its own."""

    def lose(self, message: str, reason: str = "left") -> None:
        """Nothing: a server that fails its health check may still finish its answers, and each has a deadline."""

    async def close(self) -> None:
        """Close all connections."""
        await self._http.close()

    async def _with_retries(
        self, id: str, params: GenerationParams, on_update: OnUpdate, trace: Trace | None
    ) -> GenerationResult:
        for tries in range(1, self._endpoint.retries + 2):
            try:
                answer = Answer(self._http.key())
                return await self._run(id, params, on_update, trace, answer)
            except EndpointFailure as failure:
                if failure.is_outage:
                    self.failed.set()
                if params.stream and answer.pieces:
                    failure.problem += f", after {answer.pieces} pieces of its answer"
                    raise
                pause = pause_before(tries, failure.retry_after)
                if not failure.is_transient or pause is None or tries > self._endpoint.retries:
                    if tries > 1:
                        failure.problem += f" (in the last of {tries} tries)"
                    raise
                log.warning("request %s: %s %s; another try in %.1f s", id, self.name, failure.problem, pause)
                await asyncio.sleep(pause)
        raise AssertionError("the last try returns or raises")

    async def _run(
        self, id: str, params: GenerationParams, on_update: OnUpdate, trace: Trace | None, answer: Answer
    ) -> GenerationResult:
        began = time.monotonic()
        headers = {"X-Request-Id": id.partition("#")[0], **(trace.carrier if trace else {})}
        events = self._http.events(CHAT, chat_body(self._endpoint, params), headers)
        most = params.sampling.max_tokens or 0
        async with contextlib.aclosing(events):
            async for event in events:
                piece = answer.add(event)
                if piece is not None:
                    on_update(Progress(id, answer.pieces, max(most, answer.pieces) if most else 0))
                    if params.stream:
                        on_update(Partial(id, written=piece))
        if answer.finish_reason is None:
            raise EndpointFailure(
                "unavailable", "closed the connection before the end of its answer", is_transient=True
            )
        result = answer.result()
        self.answered_at = time.monotonic()
        self.completed += 1
        self.pieces += answer.pieces
        self.seconds += self.answered_at - began
        return result


def pause_before(tries: int, retry_after: float | None) -> float | None:
    """Seconds to wait after so many tries; None if the server asks for longer than it is worth.

    Random within the upper half, so that requests that failed together are not retried at the same time.
    """
    if retry_after is not None:
        return retry_after if retry_after <= MAX_RETRY_AFTER_SECONDS else None
    longest = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** (tries - 1))
    return random.uniform(longest / 2, longest)
