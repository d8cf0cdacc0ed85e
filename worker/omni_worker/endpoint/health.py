"""Whether a stage's server answers: asks for its models now and then, and reports it to the pool as its only replica.

It asks seldom while requests are answered, at once after one found the server down, and then at growing intervals.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable

import msgspec

from omni_worker.config.endpoint import Endpoint
from omni_worker.coordinator.messages import Replica, ReplicaLoad, ReplicaState
from omni_worker.endpoint.client import EndpointClient
from omni_worker.endpoint.failures import EndpointFailure, shown
from omni_worker.endpoint.http import MAX_CONNECTIONS, EndpointHttp
from omni_worker.model_card import ModelCard

log = logging.getLogger(__name__)
MODELS = "models"
CHECK_SECONDS, TIMEOUT_SECONDS = 30.0, 10.0
FIRST_RECHECK_SECONDS = 1.0
LOAD_SECONDS = 1.0
"""How often the number of requests there is reported, if it has changed."""
MAX_BYTES = 4 * 1024 * 1024
SHOWN_MODELS = 5
NO_ACCESS = (401, 403)

OnChange = Callable[[Replica, str | None], None]
"""Gets the server as the only replica of its stage, and what is wrong with it."""


class _Model(msgspec.Struct, frozen=True):
    id: str
    max_model_len: int | None = None


class _Models(msgspec.Struct, frozen=True):
    data: list[_Model] = []


class EndpointHealth:
    """The health of the server of stage number `stage_id`.

    problem: why the server gets no requests, or what is wrong with its model; None if nothing is
    is_up: whether it gets requests
    """

    def __init__(
        self, stage_id: int, endpoint: Endpoint, client: EndpointClient, http: EndpointHttp, on_change: OnChange
    ) -> None:
        self.problem: str | None = None
        self.is_up = False
        self._endpoint, self._client, self._http = endpoint, client, http
        self._on_change = on_change
        self._reported: tuple[Replica, str | None] | None = None
        self._card = ModelCard(pipeline=endpoint.model, mode="generate")
        self._replica = Replica(
            stage_id=stage_id,
            replica_id=0,
            uid=secrets.token_hex(8),
            address=endpoint.url,
            state=ReplicaState.STARTING,
            card=self._card,
            host=endpoint.host,
        )

    async def run(self) -> None:
        """Check and report until cancelled."""
        self._report(ReplicaState.STARTING)
        pause = 0.0
        while True:
            await self._report_load_for(pause)
            is_busy = self.is_up and time.monotonic() - self._client.answered_at < CHECK_SECONDS
            if not is_busy or self._client.failed.is_set():
                self._client.failed.clear()
                was_up = self.is_up
                await self.check()
                pause = CHECK_SECONDS if self.is_up else FIRST_RECHECK_SECONDS if was_up else 2 * pause
                pause = min(max(pause, FIRST_RECHECK_SECONDS), CHECK_SECONDS)

    async def check(self) -> None:
        """Ask the server once, and report its state."""
        before = self.problem, self.is_up
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                self.problem, self.is_up = self._read(await self._http.get(MODELS, MAX_BYTES)), True
        except TimeoutError:
            self.problem, self.is_up = f"{self._client.name} did not answer within {TIMEOUT_SECONDS:g} s", False
        except EndpointFailure as failure:
            self.is_up = answers(failure.status)
            self.problem = None if self.is_up else failure.to_error(self._client.name).message
        if before != (self.problem, self.is_up):
            level = logging.WARNING if self.problem else logging.INFO
            log.log(level, "%s", self.problem or f"{self._client.name} is up")
        self._report(ReplicaState.UP if self.is_up else ReplicaState.ERROR)

    def _read(self, body: bytes) -> str | None:
        """Learn about the model from the list of models. Returns what is wrong with it."""
        try:
            models = msgspec.json.decode(body, type=_Models).data
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            return f"{self._client.name} gave no list of models: {shown(str(error))}"
        own = next((model for model in models if model.id == self._endpoint.model), None)
        if own is None and models:
            names = ", ".join(repr(shown(model.id)) for model in models[:SHOWN_MODELS])
            return f"{self._client.name} does not list the model {self._endpoint.model!r}; it lists {names}"
        if own is not None:
            self._card = msgspec.structs.replace(self._card, context_length=own.max_model_len)
        return None

    async def _report_load_for(self, seconds: float) -> None:
        """Report the load while it changes, for so many seconds or until a call finds the server down."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._client.failed.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._client.failed.wait(), min(left, LOAD_SECONDS))
            self._report(self._replica.state)

    def _report(self, state: ReplicaState) -> None:
        client = self._client
        load = ReplicaLoad(
            running=client.in_flight,
            capacity=MAX_CONNECTIONS,
            completed=client.completed,
            step_ms=client.seconds / client.pieces * 1e3 if client.pieces else 0.0,
        )
        replica = msgspec.structs.replace(self._replica, state=state, card=self._card, load=load)
        if (replica, self.problem) != self._reported:
            self._replica, self._reported = replica, (replica, self.problem)
            self._on_change(replica, self.problem)


def answers(status: int | None) -> bool:
    """Whether a server that answered with this status serves, although it gave no list of models: not all have one."""
    return status is not None and (400 <= status < 500 or status == 501) and status not in NO_ACCESS
