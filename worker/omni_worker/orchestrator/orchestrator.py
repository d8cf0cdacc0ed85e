"""Drives one request through the stages. It knows nothing about membership or sockets; the stage pools do.

No request is lost with its replica. If a replica is lost or accepts nothing new, the request runs again on another one
with the same seed, and gives the same image; text continues after the tokens that the client already has. A request is
turned away only before a replica of its stage has accepted it, and only if the queues of all replicas that are up are
full.

A request that fails on a replica runs again on others, because the replica may be the cause. A result that does not fit
the request counts as such a failure (`result_check`). The request fails for its client if it fails on all that may have
it.

The number of runs is limited. A replica refuses a request at most once, and a request fails on a replica at most once.
`suspects` limits how many replicas may crash or be lost under one request.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Sequence

from omni_worker.errors import ReplicaLost, RequestError
from omni_worker.orchestrator.handover import combine_results, required_stages, stage_params, with_input_from
from omni_worker.orchestrator.lora_library import LoraLibrary
from omni_worker.orchestrator.member import Member
from omni_worker.orchestrator.result_cache import ResultCache
from omni_worker.orchestrator.result_check import check_finite, check_result
from omni_worker.orchestrator.run_history import RunHistory
from omni_worker.orchestrator.stage_pool import StagePool
from omni_worker.orchestrator.stage_task import OnPartial, RunningRequest, StageTask
from omni_worker.orchestrator.suspects import record_loss
from omni_worker.replica.wire.messages import Trace
from omni_worker.requests import GenerationRequest, GenerationResult
from omni_worker.telemetry.journal import Journal
from omni_worker.telemetry.metrics import HeadMetrics
from omni_worker.telemetry.tracing import OUTCOME, REPLICA, REQUEST, STAGE, Tracing

log = logging.getLogger(__name__)


class Orchestrator:
    """Runs requests on the stages of a pipeline. `pools` are the stages in order; `running` is every request by id."""

    def __init__(
        self,
        pools: Sequence[StagePool],
        metrics: HeadMetrics,
        tracing: Tracing | None = None,
        loras: LoraLibrary | None = None,
        results: ResultCache | None = None,
    ) -> None:
        self.pools = pools
        self.loras = loras or LoraLibrary(pools)
        self.results = results or ResultCache(0)
        self.running: dict[str, RunningRequest] = {}
        self._tracing = tracing or Tracing()
        self._metrics = metrics
        self._run_numbers = itertools.count()

    def count_invalid(self) -> None:
        """Count a request that the API rejected as invalid, so that `generate` never saw it."""
        self._metrics.count_invalid()

    async def generate(self, request: GenerationRequest, on_partial: OnPartial | None = None) -> GenerationResult:
        """Return the result of a request: a kept one, or that of a run.

        `on_partial` gets the partial results of a run. Cancelling the call aborts the request.

        Raises RequestError if the request is invalid, a stage fails on it, or no replica can take it.
        """
        if request.id in self.running:
            raise RequestError("invalid", f"a request with the id {request.id!r} is running already")
        with self._tracing.span("request", {REQUEST: request.id}) as span:
            running = self.running[request.id] = RunningRequest(request.id, client_id=request.client_id)
            journal, outcome, message = Journal(request.id, span.trace_id, request.client_id), "failed", None
            try:
                key = self.results.key_of(request)
                result = self.results.find(key)
                if result is None:
                    with self.loras.using(choice.name for choice in request.params.loras):
                        result = await self._run_stages(request, running, on_partial, journal)
                    self.results.keep(key, result)
                outcome = "completed"
                return result
            except RequestError as error:
                outcome, message, error.is_counted = error.kind, error.message, True
                raise
            except asyncio.CancelledError:
                outcome = "aborted"
                raise
            finally:
                del self.running[request.id]
                for pool in self.pools:
                    pool.forget(request.id)
                self._metrics.count_request(outcome, journal)
                journal.write(outcome, message)
                span.set_attributes({OUTCOME: outcome})

    async def _run_stages(
        self, request: GenerationRequest, running: RunningRequest, on_partial: OnPartial | None, journal: Journal
    ) -> GenerationResult:
        stages = required_stages([pool.stage for pool in self.pools], request.outputs)
        results: list[GenerationResult] = []
        params = request.params
        for pool, stage, following in zip(self.pools, stages, [*stages[1:], None], strict=False):
            try:
                if results:
                    params = with_input_from(stage, params, results[-1])
                own_params = stage_params(stage, following, params)
                task = StageTask(pool, own_params, running, on_partial, journal.enter_stage(stage.name))
                with self._tracing.span(f"stage {stage.name}", {REQUEST: request.id, STAGE: stage.name}):
                    results.append(await self._run_stage(request.id, task))
                task.on_result(results[-1])
            except RequestError as error:
                error.stage = stage.name
                raise
        return combine_results(results)

    async def _run_stage(self, id: str, task: StageTask) -> GenerationResult:
        """Run a request on one replica after another until one returns its result."""
        adapters = frozenset(choice.name for choice in task.params.loras)
        if adapters and task.pool.stage.engine != "diffusion":  # another stage may have only some of them
            adapters &= {lora.source.name for lora in self.loras.wanted(task.pool.stage).loras}
        history = RunHistory(id, adapters=adapters)
        try:
            return await self._run_until_served(id, task, history)
        finally:
            task.pool.settle(history)

    async def _run_until_served(self, id: str, task: StageTask, history: RunHistory) -> GenerationResult:
        pool, running = task.pool, task.running
        while True:
            running.state, began = "waiting", time.monotonic()
            member = await pool.pick(history)
            task.visit.waited += time.monotonic() - began
            running.stage, running.replica = pool.stage.name, f"{pool.stage.name}-{member.name}"
            task.visit.replicas.append(running.replica)
            running.step, running.total_steps, running.state = 0, 0, "running"
            try:
                result = await self._run_once(id, task, member, is_refusable=not history.was_accepted)
                pool.record_success(member, history)
                return result
            except ReplicaLost as error:
                log.warning("request %s: lost replica %s: %s", id, running.replica, error)
                self._metrics.count_lost_run(pool.stage.name, error.reason)
                record_loss(history, member, error)
                self._metrics.count_retry(pool.stage.name)
            except RequestError as error:
                if pool.stage.endpoint is not None:  # there is no other, and its client has tried again already
                    raise
                if error.kind == "busy":
                    history.busy[member] = error
                elif error.kind == "refused":
                    history.refused.add(member)
                    self._metrics.count_lost_run(pool.stage.name, error.kind)
                    self._metrics.count_retry(pool.stage.name)
                elif error.kind == "failed":
                    pool.hold_failed(member, history, error)
                    if not pool.may_run_elsewhere(history):
                        raise
                    log.warning("request %s failed on replica %s: %s", id, running.replica, error)
                    self._metrics.count_lost_run(pool.stage.name, error.kind)
                    self._metrics.count_retry(pool.stage.name)
                else:
                    raise
            finally:
                pool.release(member, history)
                task.visit.seconds = time.monotonic() - task.began

    async def _run_once(self, id: str, task: StageTask, member: Member, is_refusable: bool) -> GenerationResult:
        stage = task.pool.stage.name
        # Every run has its own id, so that a late answer to an earlier run cannot be mistaken for this one's.
        run_id = f"{id}#{next(self._run_numbers)}"
        with self._tracing.span(
            "run", {REQUEST: id, STAGE: stage, REPLICA: task.running.replica}, kind="client"
        ) as span:
            trace = Trace(id, stage, dict(span.carrier)) if span.carrier else None
            result = await member.client.generate(run_id, task.start_run(), task.on_update, is_refusable, trace)
            check_result(result, task.params, task.pool.stage, member.replica.card)
            if result.embeddings:
                await asyncio.to_thread(check_finite, result.embeddings)
            return result
