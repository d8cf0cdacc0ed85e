"""Drives one request through the stages. It knows nothing of membership or sockets: pools do.

No request is lost with a replica: what ran on one that went away, or that takes nothing new, runs again on another
with the same seed, and so gives the same picture. A request is turned away only before any replica has taken it, and
only when the queue of each that is up is full.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from omni_worker.errors import ReplicaLost, RequestError
from omni_worker.metrics import HeadMetrics
from omni_worker.orchestrator.stage_pool import StagePool
from omni_worker.requests import GenerationParams, GenerationRequest, GenerationResult

log = logging.getLogger(__name__)
MAX_LOST = 3  # replicas that a request may lose before it is suspected of killing them


@dataclass
class Running:
    """Where a request is now."""

    id: str
    stage: str = ""
    replica: str = ""
    step: int = 0
    total_steps: int = 0
    state: str = "waiting"


class Orchestrator:
    """`pools` are the stages in order; the last one's output is the answer."""

    def __init__(self, pools: Sequence[StagePool], metrics: HeadMetrics) -> None:
        self.pools = pools
        self.running: dict[str, Running] = {}
        self._metrics = metrics
        self._attempts = itertools.count()

    async def generate(self, request: GenerationRequest) -> GenerationResult:
        """Run a request to its end; cancelled, it is aborted wherever it is.

        Raises RequestError: the request is wrong, the model failed on it, or no replica could take it.
        """
        if request.id in self.running:
            raise RequestError("invalid", f"a request with the id {request.id!r} is running already")
        running = self.running[request.id] = Running(request.id)
        began = time.monotonic()
        outcome = "failed"
        try:
            for pool in self.pools:
                result = await self._run_stage(pool, request, running)
            outcome = "completed"
            return result
        except RequestError as error:
            outcome = error.kind
            raise
        except asyncio.CancelledError:
            outcome = "aborted"
            raise
        finally:
            del self.running[request.id]
            self._metrics.request_ended(outcome, time.monotonic() - began)

    async def _run_stage(self, pool: StagePool, request: GenerationRequest, running: Running) -> GenerationResult:
        lost, began = 0, time.monotonic()
        avoid: frozenset[str] = frozenset()
        busy: dict[str, RequestError] = {}
        while True:
            member = await pool.pick(avoid, busy)
            running.stage, running.replica = pool.stage.name, f"{pool.stage.name}-{member.name}"
            running.step, running.total_steps, running.state = 0, 0, "running"

            def on_progress(step: int, total_steps: int) -> None:
                running.step, running.total_steps = step, total_steps

            try:
                # An id of its own for every attempt: a late answer to an earlier one must not be taken for this one's.
                attempt = f"{request.id}#{next(self._attempts)}"
                return await member.client.generate(
                    attempt, _remaining(request.params, began), on_progress, refusable=not lost
                )
            except ReplicaLost as error:
                lost += 1
                busy.clear()  # none of them may turn it away from now on
                log.warning("request %s: lost replica %s: %s", request.id, running.replica, error)
                if lost == MAX_LOST:
                    raise RequestError(
                        "failed",
                        f"the request lost {lost} replicas of stage {pool.stage.name!r}; it is not tried again",
                    ) from error
            except RequestError as error:
                if error.kind == "busy":
                    busy[member.replica.uid] = error
                    continue
                if error.kind != "refused":
                    raise
                await asyncio.sleep(0.05)  # the news that it drains is on its way
            running.state = "waiting"
            self._metrics.retried(pool.stage.name)
            avoid |= {member.replica.uid}


def _remaining(params: GenerationParams, began: float) -> GenerationParams:
    """The parameters with what is left until the deadline."""
    if params.deadline_seconds is None:
        return params
    return replace(params, deadline_seconds=params.deadline_seconds - (time.monotonic() - began))
