"""Drives one request through the stages. It knows nothing of membership or sockets: pools do.

No request is lost with a replica: what ran on one that went away, or that takes nothing new, runs again on another
with the same seed, and so gives the same picture; text that was told already is gone on with. A request is turned away
only before any replica of its stage has taken it, and only when the queue of each that is up is full.

Runs are repeated within bounds. A replica refuses a request at most once. Of those that crash, a request takes at most
three with it, of which the last ran no other suspect; and whatever becomes of replicas, it loses at most ten.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from omni_worker.errors import ReplicaLost, RequestError
from omni_worker.orchestrator.handover import asked_of, handed_over, joined, route
from omni_worker.orchestrator.stage_pool import CRASHES_OF_SUSPECTS, Member, StagePool, Tried
from omni_worker.replica.wire.messages import Partial, Progress, Trace
from omni_worker.requests import GeneratedText, GenerationParams, GenerationRequest, GenerationResult
from omni_worker.telemetry.journal import Journal, Visit
from omni_worker.telemetry.metrics import HeadMetrics
from omni_worker.telemetry.tracing import OUTCOME, REPLICA, REQUEST, STAGE, Tracing

log = logging.getLogger(__name__)
MAX_CRASHES = CRASHES_OF_SUSPECTS + 1  # replicas that may crash under a request: the last one under no other suspect
MAX_LOST = 10  # replicas that a request may lose for any reason

OnPartial = Callable[[Partial], None]


@dataclass
class Running:
    """Where a request is now."""

    id: str
    stage: str = ""
    replica: str = ""
    step: int = 0
    total_steps: int = 0
    state: str = "waiting"


@dataclass
class Attempts:
    """A request at one stage: what is asked for, what became of it so far, and who is told of it.

    written, text: the tokens that were told, with which a repeated attempt goes on, and the length of their text
    counted: how many of the tokens of this attempt are in the stage's count
    """

    pool: StagePool
    params: GenerationParams
    running: Running
    on_partial: OnPartial | None
    visit: Visit
    began: float = field(default_factory=time.monotonic)
    written: list[int] = field(default_factory=list)
    text: int = 0
    counted: int = 0

    def next_params(self) -> GenerationParams:
        """What the next attempt is given: what is left to do, and until when."""
        deadline = self.params.deadline_seconds
        self.counted = len(self.written)
        return replace(
            self.params,
            written=tuple(self.written),
            deadline_seconds=None if deadline is None else deadline - (time.monotonic() - self.began),
        )

    def on_news(self, news: Progress | Partial) -> None:
        """The replica told of it."""
        if isinstance(news, Progress):
            self.running.step, self.running.total_steps = news.step, news.total_steps
            self.visit.steps = news.step
            if self.pool.stage.writes:
                self._count(news.step)
            return
        if news.written is not None:
            self.written += news.written.tokens
            self.text += len(news.written.text)
        if self.on_partial is not None:
            self.on_partial(news)

    def on_result(self, result: GenerationResult) -> None:
        """The stage has ended: count what came with the result, and tell what it wrote last, which came so alone."""
        self.visit.steps = max(self.visit.steps, result.steps)
        self.pool.images += len(result.images)
        if result.completion is None:
            return
        whole, told = result.completion.written, len(self.written)
        self._count(len(whole.tokens))
        if self.on_partial is None or not self.params.stream:
            return
        rest = GeneratedText(text=whole.text[self.text :], tokens=whole.tokens[told:], logprobs=whole.logprobs[told:])
        if rest.text or rest.tokens:
            self.on_partial(Partial(self.running.id, written=rest))

    def _count(self, tokens: int) -> None:
        self.pool.tokens += max(0, tokens - self.counted)
        self.counted = max(tokens, self.counted)


class Orchestrator:
    """`pools` are the stages in order."""

    def __init__(self, pools: Sequence[StagePool], metrics: HeadMetrics, tracing: Tracing | None = None) -> None:
        self.pools = pools
        self._tracing = tracing or Tracing()
        self.running: dict[str, Running] = {}
        self._metrics = metrics
        self._attempts = itertools.count()

    async def generate(self, request: GenerationRequest, on_partial: OnPartial | None = None) -> GenerationResult:
        """Run a request to its end; cancelled, it is aborted wherever it is. `on_partial` is told what there is of it.

        Raises RequestError: the request is wrong, a stage failed on it, or no replica could take it.
        """
        if request.id in self.running:
            raise RequestError("invalid", f"a request with the id {request.id!r} is running already")
        with self._tracing.span("request", {REQUEST: request.id}) as span:
            running = self.running[request.id] = Running(request.id)
            journal, outcome, message = Journal(request.id, span.trace_id), "failed", None
            try:
                result = await self._run(request, running, on_partial, journal)
                outcome = "completed"
                return result
            except RequestError as error:
                outcome, message = error.kind, error.message
                raise
            except asyncio.CancelledError:
                outcome = "aborted"
                raise
            finally:
                del self.running[request.id]
                for pool in self.pools:
                    pool.forget(request.id)
                self._metrics.request_ended(outcome, journal)
                journal.write(outcome, message)
                span.note({OUTCOME: outcome})

    async def _run(
        self, request: GenerationRequest, running: Running, on_partial: OnPartial | None, journal: Journal
    ) -> GenerationResult:
        stages = route([pool.stage for pool in self.pools], request.outputs)
        results: list[GenerationResult] = []
        params = request.params
        for pool, stage, following in zip(self.pools, stages, [*stages[1:], None], strict=False):
            try:
                if results:
                    params = handed_over(stage, params, results[-1])
                asked, visit = asked_of(stage, following, params), journal.visit(stage.name)
                attempts = Attempts(pool, asked, running, on_partial, visit)
                with self._tracing.span(f"stage {stage.name}", {REQUEST: request.id, STAGE: stage.name}):
                    results.append(await self._run_stage(request.id, attempts))
                attempts.on_result(results[-1])
            except RequestError as error:
                error.stage = stage.name
                raise
        return joined(results)

    async def _run_stage(self, id: str, attempts: Attempts) -> GenerationResult:
        pool, running, tried = attempts.pool, attempts.running, Tried(id)
        while True:
            running.state, since = "waiting", time.monotonic()
            member = await pool.pick(tried)
            attempts.visit.waited += time.monotonic() - since
            running.stage, running.replica = pool.stage.name, f"{pool.stage.name}-{member.name}"
            attempts.visit.replicas.append(running.replica)
            running.step, running.total_steps, running.state = 0, 0, "running"
            try:
                # An id of its own for every attempt: a late answer to an earlier one must not be taken for this one's.
                attempt = f"{id}#{next(self._attempts)}"
                told = {REQUEST: id, STAGE: pool.stage.name, REPLICA: running.replica}
                with self._tracing.span("run", told, kind="client") as span:
                    trace = Trace(id, pool.stage.name, dict(span.carrier)) if span.carrier else None
                    return await member.client.generate(
                        attempt, attempts.next_params(), attempts.on_news, not tried.was_taken, trace
                    )
            except ReplicaLost as error:
                log.warning("request %s: lost replica %s: %s", id, running.replica, error)
                self._metrics.run_lost(pool.stage.name, error.reason)
                _lost(tried, member, error)
                self._metrics.retried(pool.stage.name)
            except RequestError as error:
                if error.kind == "busy":
                    tried.busy[member] = error
                elif error.kind == "refused":
                    tried.refused.add(member)
                    self._metrics.run_lost(pool.stage.name, error.kind)
                    self._metrics.retried(pool.stage.name)
                else:
                    raise
            finally:
                pool.release(member, tried)
                attempts.visit.seconds = time.monotonic() - attempts.began


def _lost(tried: Tried, member: Member, error: ReplicaLost) -> None:
    """Note that `member` was lost under the request. Raises RequestError where that is not to happen again.

    Where a request that is suspected already ran beside it when the replica crashed, it was that one.
    """
    tried.lost.add(member)
    tried.losses += 1
    tried.busy.clear()  # none of them may turn it away from now on
    if error.reason == "crashed" and member.blamed in (None, tried.id):
        tried.crashes += 1
    if tried.crashes == MAX_CRASHES:
        raise RequestError(
            "failed",
            f"{tried.crashes} replicas crashed while they ran this request, the last one with no other that could be "
            "the cause; it is not tried again",
        ) from error
    if tried.losses == MAX_LOST:
        raise RequestError("failed", f"the request lost {tried.losses} replicas; it is not tried again") from error
