"""The command `omni operator`: wires the cluster's events to reconciliation, and does nothing else.

kopf's watch of pipelines, and our own watches of their children, only put names on a queue; workers take them off and
reconcile. What a user changed goes first. A resync repeats that now and then, in case a watch missed something. Nothing
here decides anything, and no finalizer, timer or daemon of kopf is used: a pipeline can be deleted while no operator
runs.
"""

import argparse
import asyncio
import logging
import os
import random
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, repeat
from typing import Any

import kopf

from omni_operator.controller.heads.autoscaler import Scaler
from omni_operator.controller.heads.head_api import read, serving_in_head
from omni_operator.controller.heads.head_poller import Heads
from omni_operator.controller.leadership.leader import Leader
from omni_operator.controller.leadership.other_operators import Neighbours
from omni_operator.controller.metrics import OperatorMetrics
from omni_operator.controller.reconcile import Incomplete, reconcile
from omni_operator.controller.watches.informers import Observer
from omni_operator.controller.watches.object_cache import Key
from omni_operator.controller.work_queue import KeyedQueue
from omni_operator.crd.objects import Object
from omni_operator.crd.spec.pipeline import GROUP, PLURAL, VERSION
from omni_operator.kube.client import Cluster
from omni_operator.kube.errors import ApiError, NotLeading, Unreachable
from omni_operator.kube.kubeconfig import current_namespace
from omni_operator.kube.resources import PIPELINES

logger = logging.getLogger(__name__)

HELP = """Run the operator: keeps the children of every OmniPipeline as its spec says.

Talks to the cluster it runs in, or to the one of the current kubeconfig. Runs until SIGTERM. Of several operators for
all namespaces one acts, and of several for the same one too; another takes over where it ends. One for all leaves the
namespaces alone that another is for.

  omni operator                                     all namespaces
  omni operator --namespace team-a --namespace team-b"""

DEFAULT_IMAGE = "ghcr.io/omnipipeline/worker:0.1.0"
WORKERS = 8
RESYNC_SECONDS = 120.0
STUCK_SECONDS = 300.0
LEASE = "omni-operator"
LEASE_OF_ALL = "omni-operator-all"
CRD_SECONDS = 2.0
POLL_SECONDS = 3.0
POLLERS = 8
MEASURE_SECONDS = 2.0
RESULTS = {ApiError: "refused", Unreachable: "unreachable", Incomplete: "incomplete"}

Scope = str | None
"""A namespace that is watched, or all of them."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--worker-image",
        metavar="IMAGE",
        default=os.environ.get("OMNI_WORKER_IMAGE", DEFAULT_IMAGE),
        help="image of the pods, where a pipeline names none (default: $OMNI_WORKER_IMAGE, or %(default)s)",
    )
    parser.add_argument(
        "--namespace",
        action="append",
        default=[],
        metavar="NAME",
        help="watch only this one; repeatable (default: all)",
    )
    parser.add_argument(
        "--probe-port", type=int, default=8080, metavar="PORT", help="port of /healthz; 0 for none (default: 8080)"
    )
    parser.add_argument(
        "--metrics-port", type=int, default=8081, metavar="PORT", help="port of /metrics; 0 for none (default: 8081)"
    )
    parser.add_argument(
        "--leader-election",
        action=argparse.BooleanOptionalAction,
        default=True,
        help=f"act only while holding a Lease, so that of several operators one acts: {LEASE_OF_ALL} in this pod's"
        f" namespace, or {LEASE} in each --namespace for that one alone (default: do so)",
    )
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="what is logged (default: info)",
    )


def run(args: argparse.Namespace) -> int:
    logging.basicConfig(
        level=args.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    for chatty in ("kopf", "aiohttp.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    for flag, port in (("--probe-port", args.probe_port), ("--metrics-port", args.metrics_port)):
        if port:
            require_free_port(flag, port)
    cluster, namespaces = Cluster(), tuple(args.namespace)
    operator = Operator(cluster, args.worker_image, namespaces)
    if args.leader_election:
        identity = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        operator.leaders = {
            scope: Leader(cluster, scope, LEASE, identity)
            if scope
            else Leader(cluster, current_namespace(), LEASE_OF_ALL, identity)
            for scope in operator.scopes
        }
        if not namespaces:
            operator.neighbours = Neighbours(cluster, LEASE)
        cluster.may_write = lambda namespace: (
            operator.leaders[operator.scope_of(namespace)].is_leading and not operator.is_left_out(namespace)
        )
    cluster.connection.on_call = operator.metrics.heard
    if args.metrics_port:
        operator.metrics.serve(args.metrics_port)
    wait_for_definition(cluster, namespaces)
    kopf.run(
        registry=registry(operator),
        settings=settings(),
        standalone=True,
        clusterwide=not args.namespace,
        namespaces=args.namespace,
        liveness_endpoint=f"http://0.0.0.0:{args.probe_port}/healthz" if args.probe_port else None,
    )
    return 0


class PortInUse(Exception):
    """The probes or the metrics have nowhere to be."""

    exit_code = 1


def require_free_port(flag: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError as error:
            raise PortInUse(f"{flag} {port}: {error.strerror}; choose another port, or 0 for none") from None


def wait_for_definition(cluster: Cluster, namespaces: tuple[str, ...]) -> None:
    """Return when the API server tells which kinds it has, and pipelines are one of them.

    kopf would start without, and then never see one.
    """
    while True:
        try:
            next(cluster.pages(PIPELINES, namespaces[0] if namespaces else None))
            logger.info("looks after %s", ", ".join(cluster.child_resources))
            return
        except (ApiError, Unreachable) as error:
            if isinstance(error, ApiError) and error.status != 404 and not error.is_transient:
                raise
            is_missing = isinstance(error, ApiError) and error.status == 404
            logger.warning("%s; waiting", "the CRD is not installed" if is_missing else error)
            time.sleep(CRD_SECONDS)


@dataclass
class Operator:
    """What runs in one operator process, all of it on kopf's event loop."""

    cluster: Cluster
    worker_image: str
    namespaces: tuple[str, ...]
    leaders: Mapping[Scope, Leader] = field(default_factory=dict)
    """Of each scope its own: the scopes of two operators may overlap. Without any, it acts in all of them."""
    neighbours: Neighbours | None = None
    """Those for single namespaces, where this one is for all."""
    queue: KeyedQueue[Key] = field(default_factory=lambda: KeyedQueue[Key]())
    acting: set[Scope] = field(default_factory=set)
    """The scopes in which it acts."""
    resting: dict[Scope, set[Key]] = field(default_factory=dict)
    """What has changed in the others, to begin with when it comes to act there."""
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scaler = Scaler(partial(read, self.cluster), time.monotonic)
        self.heads = Heads(partial(serving_in_head, self.cluster))
        self.metrics = OperatorMetrics()
        self.has_seen_all = asyncio.Event()
        self.loop: asyncio.AbstractEventLoop | None = None

    @property
    def scopes(self) -> tuple[Scope, ...]:
        return self.namespaces or (None,)

    def scope_of(self, namespace: str) -> Scope:
        return namespace if self.namespaces else None

    def is_left_out(self, namespace: str) -> bool:
        """Whether another operator acts in that namespace."""
        return self.neighbours is not None and self.neighbours.serve(namespace)

    def start(self) -> None:
        loop = self.loop = asyncio.get_running_loop()
        if self.neighbours:
            self.neighbours.start(lambda: loop.call_soon_threadsafe(self.look_again))
        pool = ThreadPoolExecutor(WORKERS + 1, thread_name_prefix="reconcile")
        self.observer = Observer(self.cluster, self.scopes, self.hear)
        self.observer.start(whole=self.seen_all)
        for scope in self.scopes:
            if scope in self.leaders:
                self.leaders[scope].start(self.lead_from(loop, scope))
            else:
                self.lead(scope, True)
        self.tasks = [asyncio.create_task(self.work(pool)) for _ in range(WORKERS)]
        self.tasks.append(asyncio.create_task(self.resync(pool)))
        self.tasks.append(asyncio.create_task(self.measure()))
        self.tasks.append(asyncio.create_task(self.scale(ThreadPoolExecutor(POLLERS, thread_name_prefix="poll"))))

    def lead(self, scope: Scope, acts: bool) -> None:
        """Act in a scope from now on, or no more. What changes there meanwhile is kept for later."""
        if acts:
            self.acting.add(scope)
            for key in self.resting.pop(scope, ()):
                self.queue.add(key)
        else:
            self.acting.discard(scope)
            for asked in (self.scaler, self.heads):
                asked.forget_where(lambda namespace: self.scope_of(namespace) == scope)

    def lead_from(self, loop: asyncio.AbstractEventLoop, scope: Scope) -> Callable[[bool], object]:
        """What a leader calls, from its thread, when it comes to lead in a scope or ceases to."""
        return lambda acts: loop.call_soon_threadsafe(self.lead, scope, acts)

    def look_again(self) -> None:
        """Begin in the namespaces that are left to nobody any more, and let go of those that are."""
        for asked in (self.scaler, self.heads):
            asked.forget_where(self.is_left_out)
        for scope in self.acting:
            for key in self.resting.pop(scope, ()):
                self.queue.add(key)

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(None, leader.stop) for leader in self.leaders.values()))

    def seen_all(self) -> None:
        """What the watches call once they have told all there was."""
        if self.loop:
            self.loop.call_soon_threadsafe(self.has_seen_all.set)

    def hear(self, key: Key) -> None:
        """What the watches call, from their threads, with the pipeline of a child that changed."""
        if self.loop and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.queue.add, key)

    def hear_pipeline(self, what: str | None, pipeline: Object) -> None:
        """Take what kopf's watch tells of a pipeline: of a status that was written here it is no news."""
        key = (pipeline["metadata"]["namespace"], pipeline["metadata"]["name"])
        if not is_seen(pipeline):
            self.queue.add(key, is_urgent=True)
        if what == "DELETED":
            self.observer.lost(pipeline)
        else:
            self.observer.saw(pipeline)

    async def work(self, pool: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        await self.has_seen_all.wait()
        while True:
            key = await self.queue.get()
            if (scope := self.scope_of(key[0])) not in self.acting or self.is_left_out(key[0]):
                self.queue.succeeded(key)
                self.metrics.show(*key, None)
                self.resting.setdefault(scope, set()).add(key)
                continue
            began, result = time.monotonic(), "done"
            try:
                await loop.run_in_executor(
                    pool,
                    reconcile,
                    self.cluster,
                    self.observer,
                    self.scaler,
                    self.heads,
                    self.metrics,
                    *key,
                    self.worker_image,
                )
            except NotLeading:
                result = "not-leading"
                self.queue.failed(key)
            except (ApiError, Unreachable, Incomplete) as error:
                result = RESULTS[type(error)]
                delay = self.queue.failed(key, getattr(error, "retry_after", 0.0))
                logger.warning("%s/%s: %s; again in %.1f s", *key, error, delay)
            except Exception:
                result = "defect"
                delay = self.queue.failed(key)
                logger.exception("%s/%s: a defect of the operator; again in %.1f s", *key, delay)
            else:
                self.queue.succeeded(key)
            self.metrics.reconcile.labels(result).observe(time.monotonic() - began)

    async def measure(self) -> None:
        """Keep those metrics up that are read off the event loop's own state."""
        while True:
            self.metrics.queue_depth.set(self.queue.depth())
            self.metrics.queue_age.set(self.queue.age())
            self.metrics.watch_age.set(self.observer.silence())
            self.metrics.leading.set(bool(self.acting))
            await asyncio.sleep(MEASURE_SECONDS)

    async def resync(self, pool: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(RESYNC_SECONDS * random.uniform(0.8, 1.2))
            for scope in self.scopes:
                try:
                    keys = await loop.run_in_executor(pool, self.pipelines, scope)
                    self.observer.only(scope, set(keys))
                    for key in keys:
                        self.queue.add(key)
                except (ApiError, Unreachable) as error:
                    logger.warning("resync: %s", error)

    def pipelines(self, scope: str | None) -> list[Key]:
        """All pipelines of a namespace, or of all; the observer sees them, in case kopf's watch missed something."""
        found = []
        for page, _ in self.cluster.pages(PIPELINES, scope):
            for one in page:
                self.observer.saw(one, is_told=False)
                found.append((one["metadata"]["namespace"], one["metadata"]["name"]))
        return found

    async def scale(self, pool: ThreadPoolExecutor) -> None:
        """Ask the heads of pipelines that are scaled, or have replicas in them; reconcile those that tell of news."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(POLL_SECONDS)
            asks = [(key, poll.poll) for poll in (self.scaler, self.heads) for key in poll.keys]
            changes = await asyncio.gather(*(loop.run_in_executor(pool, ask, key) for key, ask in asks))
            for (key, _), is_changed in zip(asks, changes, strict=True):
                if is_changed:
                    self.queue.add(key)

    def health(self) -> str:
        """Raises kopf.PermanentError, which makes the probe fail, where work or a watch is stuck."""
        if any(task.done() for task in self.tasks):
            raise kopf.PermanentError("a worker has ended")
        if self.acting and self.queue.age() > STUCK_SECONDS:
            raise kopf.PermanentError(f"a pipeline has waited for {self.queue.age():.0f} s")
        silence = self.observer.silence()
        if silence > 2 * STUCK_SECONDS:
            raise kopf.PermanentError(f"a watch has been silent for {silence:.0f} s")
        return "ok"


def settings() -> kopf.OperatorSettings:
    result = kopf.OperatorSettings()
    result.posting.enabled = False
    result.scanning.disabled = True
    result.persistence.diffbase_storage = NoEssence()
    result.watching.server_timeout = 300
    result.watching.connect_timeout = 30
    result.networking.error_backoffs = Backoffs()
    return result


class NoEssence(kopf.DiffBaseStorage):
    """kopf would copy every pipeline that it tells of, to compare it with another copy that it was to keep."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


class Backoffs:
    """Delays after failed calls of kopf, without an end: it would give up the whole operator."""

    def __iter__(self) -> Iterator[float]:
        return chain((0.2, 0.5, 1.0, 2.0, 5.0), repeat(10.0))


def registry(operator: Operator) -> kopf.OperatorRegistry:
    """kopf's handlers, each a single line towards the operator."""
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    def login(**kwargs: Any) -> Any:
        return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)

    @kopf.on.startup(registry=handlers)
    async def start(**_: Any) -> None:
        operator.start()

    @kopf.on.cleanup(registry=handlers)
    async def stop(**_: Any) -> None:
        await operator.stop()

    @kopf.on.probe(registry=handlers, id="operator")
    async def probe(**_: Any) -> str:
        return operator.health()

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=handlers)
    async def changed(event: kopf.RawEvent, **_: Any) -> None:
        operator.hear_pipeline(event["type"], dict(event["object"]))

    return handlers


def is_seen(pipeline: Mapping[str, Any]) -> bool:
    """Whether a pipeline's status is of its present spec."""
    seen = (pipeline.get("status") or {}).get("observedGeneration")
    return bool(seen == pipeline["metadata"].get("generation"))
