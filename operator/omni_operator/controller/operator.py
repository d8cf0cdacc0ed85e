"""The operator of one process: the queue and its workers, the resync, the polling of heads, and leadership.

Events from the watches only put keys on the queue; workers take them off and make passes. Pipelines that a user changed
come first. A resync queues all pipelines from time to time, in case a watch missed a change. Nothing here decides what
to do about a pipeline.
"""

import asyncio
import logging
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from omni_operator.controller.background import Background
from omni_operator.controller.errors import Incomplete, Unhealthy
from omni_operator.controller.heads.autoscaler import Autoscaler
from omni_operator.controller.heads.head_api import head_state, stage_loads
from omni_operator.controller.heads.head_poller import HeadPoller
from omni_operator.controller.heads.poll_loop import PollLoop
from omni_operator.controller.leadership.leader import CLUSTER_LEASE, NAMESPACE_LEASE, Leader
from omni_operator.controller.leadership.other_operators import OtherOperators
from omni_operator.controller.metrics import OperatorMetrics
from omni_operator.controller.reconcile import Reconciler
from omni_operator.controller.upgrades import Upgrades
from omni_operator.controller.watches.informers import Informers
from omni_operator.controller.work_queue import WorkQueue
from omni_operator.crd.objects import Object, PipelineKey, Scope
from omni_operator.kube.client import Cluster
from omni_operator.kube.errors import ApiError, NotLeading, Unreachable
from omni_operator.kube.kubeconfig import current_namespace
from omni_operator.kube.resources import PIPELINES
from omni_operator.planning.manifests.pod import Surroundings

logger = logging.getLogger(__name__)

WORKERS = 8
"""Passes that run at the same time."""
REST_SECONDS = 1.0
"""Time in which the events that follow a pass, as those of new pods, are collected for the next one."""
COLLECT_SECONDS = 0.05
"""Time in which changed pipelines are collected before they are queued together."""
RESYNC_SECONDS = 120.0
POLL_SECONDS = 3.0
METRICS_SECONDS = 2.0
STUCK_SECONDS = 300.0
"""Age of a key in the queue after which the operator is unhealthy; a watch may be silent for twice as long."""
RESULTS = {ApiError: "refused", Unreachable: "unreachable", Incomplete: "incomplete"}
"""The metric's label for a pass that ended with such an error."""


class Operator:
    """Everything that runs in one operator process, on kopf's event loop.

    `namespaces`: those that it serves; none for all. Without `require_leases` it acts in all of them at once.
    `max_upgrades`: pipelines that get other pods at a time because this operator makes others than the one before.
    """

    def __init__(self, cluster: Cluster, worker_image: str, namespaces: tuple[str, ...], max_upgrades: int = 1) -> None:
        self.namespaces = namespaces
        self.metrics = OperatorMetrics()
        self.background = Background()
        cluster.connection.on_call = self.metrics.count_call
        self._cluster, self._worker_image = cluster, worker_image
        self._scopes: tuple[Scope, ...] = namespaces or (None,)
        self._leaders: dict[Scope, Leader] = {}
        """One for each scope, because the scopes of two operators can overlap."""
        self._other_operators: OtherOperators | None = None
        """The operators for single namespaces, if this one is for all."""
        self._autoscaler = Autoscaler(partial(stage_loads, cluster), time.monotonic)
        self._head_poller = HeadPoller(partial(head_state, cluster))
        self._pollers = (self._autoscaler, self._head_poller)
        self._upgrades = Upgrades(max_upgrades, self._on_child_change)
        self._queue = WorkQueue[PipelineKey](rest=REST_SECONDS)
        self._changed: dict[PipelineKey, None] = {}
        """Pipelines to queue, in this order, when the event loop looks next."""
        self._is_collecting = False
        """Whether the event loop is going to look."""
        self._changed_lock = threading.Lock()
        self._active_scopes: set[Scope] = set()
        """The scopes in which this operator acts now."""
        self._postponed: dict[Scope, set[PipelineKey]] = {}
        """Pipelines that changed while this operator did not act on them. They are queued when it does."""
        self._tasks: list[asyncio.Task[None]] = []
        """To cancel at the end. `background` watches them."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._synced = asyncio.Event()
        """Set when the watches have listed all objects. No pass starts before."""

    # ---- life cycle

    def require_leases(self, identity: str) -> None:
        """Act only while this process holds the Lease of a scope. Call it before `start`."""
        self._leaders = {
            scope: Leader(self._cluster, scope, NAMESPACE_LEASE, identity)
            if scope
            else Leader(self._cluster, current_namespace(), CLUSTER_LEASE, identity)
            for scope in self._scopes
        }
        if not self.namespaces:
            self._other_operators = OtherOperators(self._cluster, NAMESPACE_LEASE)
        self._cluster.may_write = lambda namespace: (
            self._leaders[self._scope_of(namespace)].is_leading and not self._is_served_by_another(namespace)
        )

    def serve_metrics(self, port: int) -> None:
        """Start the HTTP server for the metrics."""
        server = self.metrics.serve(port)
        self.background.start_thread("metrics-server", server.join)

    def start(self) -> None:
        """Start the watches, the elections and the tasks, on the running event loop."""
        loop = self._loop = asyncio.get_running_loop()
        if self._other_operators:
            on_change = partial(loop.call_soon_threadsafe, self._on_other_operators_change)
            self._other_operators.start(on_change, self.background)
        pool = ThreadPoolExecutor(WORKERS + 1, thread_name_prefix="reconcile")
        self._informers = Informers(self._cluster, self._scopes, self._on_child_change)
        self._reconciler = Reconciler(
            self._cluster,
            self._informers,
            self._autoscaler,
            self._head_poller,
            self._upgrades,
            self.metrics,
            self._surroundings(),
        )
        self._informers.start(self._on_synced, self.background)
        for scope in self._scopes:
            if scope in self._leaders:
                self._leaders[scope].start(self._leadership_callback(loop, scope), self.background)
            else:
                self._set_active(scope, True)
        polls = PollLoop(self._pollers, partial(self._queue.add, is_urgent=True))
        start = self.background.start_task
        self._tasks = [start(f"worker-{number}", self._work(pool)) for number in range(WORKERS)]
        self._tasks.append(start("resync", self._resync(pool)))
        self._tasks.append(start("metrics", self._update_metrics()))
        self._tasks.append(start("polls", polls.run(POLL_SECONDS)))

    def _surroundings(self) -> Surroundings:
        namespace = current_namespace() if self._cluster.is_inside else None
        return Surroundings(self._worker_image, namespace, self._cluster.assigns_ids)

    async def stop(self) -> None:
        """Stop the tasks, and release the Leases."""
        self.background.let_end()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        loop = asyncio.get_running_loop()
        stopping = [loop.run_in_executor(None, leader.stop) for leader in self._leaders.values()]
        await asyncio.gather(*stopping, return_exceptions=True)

    def require_healthy(self) -> None:
        """Raises Unhealthy if a thread or task has ended, or if the queue or a watch is stuck."""
        if self.background.failure:
            raise Unhealthy(self.background.failure)
        if self._active_scopes and self._queue.oldest_age() > STUCK_SECONDS:
            raise Unhealthy(f"a pipeline has waited for {self._queue.oldest_age():.0f} s")
        silence = self._informers.longest_silence()
        if silence > 2 * STUCK_SECONDS:
            raise Unhealthy(f"a watch has been silent for {silence:.0f} s")

    # ---- scopes

    def _scope_of(self, namespace: str) -> Scope:
        return namespace if self.namespaces else None

    def _is_served_by_another(self, namespace: str) -> bool:
        """Whether another operator acts in that namespace."""
        return self._other_operators is not None and self._other_operators.is_served(namespace)

    def _set_active(self, scope: Scope, is_active: bool) -> None:
        """Start or stop acting in a scope."""
        if is_active:
            self._active_scopes.add(scope)
            self._queue_postponed(scope)
        else:
            self._active_scopes.discard(scope)
            for poller in self._pollers:
                poller.forget_where(lambda namespace: self._scope_of(namespace) == scope)

    def _leadership_callback(self, loop: asyncio.AbstractEventLoop, scope: Scope) -> Callable[[bool], object]:
        """What a leader calls, from its thread, when it starts or stops leading in a scope."""
        return lambda is_leading: loop.call_soon_threadsafe(self._set_active, scope, is_leading)

    def _on_other_operators_change(self) -> None:
        """Stop polling in namespaces that another operator serves now, and start in those that none serves any more."""
        for poller in self._pollers:
            poller.forget_where(self._is_served_by_another)
        for scope in self._active_scopes:
            self._queue_postponed(scope)

    def _queue_postponed(self, scope: Scope) -> None:
        for key in self._postponed.pop(scope, ()):
            self._queue.add(key)

    # ---- events

    def _on_synced(self) -> None:
        """Called by the informers, from a thread."""
        if self._loop:
            self._loop.call_soon_threadsafe(self._synced.set)

    def _on_child_change(self, key: PipelineKey) -> None:
        """Called by the informers, from any thread, with the pipeline of the child.

        Waking the event loop is not cheap, so only the first change does; those that follow are collected.
        """
        if not self._loop or self._loop.is_closed():
            return
        with self._changed_lock:
            is_collecting = self._is_collecting
            self._changed[key], self._is_collecting = None, True
        if not is_collecting:
            self._loop.call_soon_threadsafe(self._queue_changed, self._loop)

    def _queue_changed(self, loop: asyncio.AbstractEventLoop) -> None:
        """Queue what has changed, and look again soon, until nothing has changed meanwhile."""
        with self._changed_lock:
            keys, self._changed = self._changed, {}
            self._is_collecting = bool(keys)
        for key in keys:
            self._queue.add(key)
        if keys:
            loop.call_later(COLLECT_SECONDS, self._queue_changed, loop)

    def on_pipeline_event(self, event_type: str | None, pipeline: Object) -> None:
        """Take an event of kopf's watch. A change of the spec is urgent; our own write of the status is not."""
        key = (pipeline["metadata"]["namespace"], pipeline["metadata"]["name"])
        if not is_status_current(pipeline):
            self._queue.add(key, is_urgent=True)
        if event_type == "MODIFIED" and is_edited(self._informers.pipeline(key), pipeline):
            self._reconciler.secrets.look_again(key)  # they are not watched, so a user's change is a reason to look
        if event_type == "DELETED":
            self._informers.remove_pipeline(pipeline)
        else:
            self._informers.put_pipeline(pipeline)

    # ---- tasks

    async def _work(self, pool: ThreadPoolExecutor) -> None:
        """Take keys off the queue and make passes, one at a time."""
        loop = asyncio.get_running_loop()
        await self._synced.wait()
        while True:
            key = await self._queue.get()
            if (scope := self._scope_of(key[0])) not in self._active_scopes or self._is_served_by_another(key[0]):
                self._queue.finish(key)
                self.metrics.set_pipeline(*key, None)
                self._postponed.setdefault(scope, set()).add(key)
                continue
            started, result = time.monotonic(), "done"
            try:
                await loop.run_in_executor(pool, self._reconciler.reconcile, *key)
            except NotLeading:
                result = "not-leading"
                self._queue.retry(key)
            except (ApiError, Unreachable, Incomplete) as error:
                result = RESULTS[type(error)]
                delay = self._queue.retry(key, getattr(error, "retry_after", 0.0))
                logger.warning("%s/%s: %s; again in %.1f s", *key, error, delay)
            except Exception:
                result = "defect"
                delay = self._queue.retry(key)
                logger.exception("%s/%s: a defect of the operator; again in %.1f s", *key, delay)
            else:
                self._queue.finish(key)
            if result != "done":
                self._reconciler.secrets.look_again(key)
            self.metrics.reconcile_seconds.labels(result).observe(time.monotonic() - started)

    async def _resync(self, pool: ThreadPoolExecutor) -> None:
        """List and queue all pipelines from time to time."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(RESYNC_SECONDS * random.uniform(0.8, 1.2))
            self._reconciler.secrets.look_for_all_again()
            for scope in self._scopes:
                try:
                    keys = await loop.run_in_executor(pool, self._list_pipelines, scope)
                    self._informers.keep_only_pipelines(scope, set(keys))
                    for key in keys:
                        self._queue.add(key)
                except (ApiError, Unreachable) as error:
                    logger.warning("resync: %s", error)

    def _list_pipelines(self, scope: Scope) -> list[PipelineKey]:
        """Read all pipelines of a scope into the cache. Returns their keys."""
        keys = []
        for page, _ in self._cluster.pages(PIPELINES, scope):
            for pipeline in page:
                self._informers.put_pipeline(pipeline, notify=False)
                keys.append((pipeline["metadata"]["namespace"], pipeline["metadata"]["name"]))
        return keys

    async def _update_metrics(self) -> None:
        """Keep the metrics of the queue, the watches and the leadership up to date."""
        while True:
            self.metrics.queue_depth.set(self._queue.depth())
            self.metrics.queue_oldest_seconds.set(self._queue.oldest_age())
            self.metrics.watch_silence_seconds.set(self._informers.longest_silence())
            self.metrics.leading.set(bool(self._active_scopes))
            self.metrics.failing_heads.set(sum(map(len, (poller.failing_keys for poller in self._pollers))))
            await asyncio.sleep(METRICS_SECONDS)


def is_status_current(pipeline: Object) -> bool:
    """Whether a pipeline's status belongs to its current spec."""
    observed = (pipeline.get("status") or {}).get("observedGeneration")
    return bool(observed == pipeline["metadata"].get("generation"))


def is_edited(before: Object | None, pipeline: Object) -> bool:
    """Whether a pipeline differs from the version before in anything but its status."""
    fields = ("uid", "generation", "labels", "annotations", "deletionTimestamp")
    return before is None or any(before["metadata"].get(key) != pipeline["metadata"].get(key) for key in fields)
