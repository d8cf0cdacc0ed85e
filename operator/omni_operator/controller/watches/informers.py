"""All pipelines and their children: one cache, and the watches of all kinds of children that fill it.

kopf watches the pipelines themselves; the operator passes them on with `put_pipeline`.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from omni_operator.controller.background import Background
from omni_operator.controller.watches.object_cache import ObjectCache
from omni_operator.controller.watches.watch import Watch
from omni_operator.crd.objects import Object, PipelineKey, Scope
from omni_operator.kube.client import Cluster
from omni_operator.kube.errors import ApiError
from omni_operator.kube.resources import PIPELINES, PODS
from omni_operator.planning.manifests.labels import MANAGED_SELECTOR


class Informers:
    """The watches of one operator. `on_change` is called with a pipeline's key, from any thread, when the pipeline or
    one of its children changed."""

    def __init__(self, cluster: Cluster, scopes: Sequence[Scope], on_change: Callable[[PipelineKey], None]) -> None:
        self._cache = ObjectCache(on_change)
        self._child_kinds = tuple(cluster.child_resources)
        self._lock = threading.Lock()
        self._on_synced: Callable[[], None] = lambda: None
        self._is_synced = False
        self._watches = [
            Watch(cluster, resource, scope, MANAGED_SELECTOR, self._cache, partial(self._on_watch_change, scope))
            for scope in scopes
            for resource in (*cluster.child_resources.values(), PODS)
        ]

    def start(self, on_synced: Callable[[], None], background: Background) -> None:
        """Start the watches. `on_synced` is called once, when every watch has listed its objects, or may not do so.

        The watches of minor kinds do not count: nothing waits for them.
        """
        self._on_synced = on_synced
        for watch in self._watches:
            background.start_thread(f"watch-{watch.resource.plural}", watch.run)

    def pipeline(self, key: PipelineKey) -> Object | None:
        """The latest version of a pipeline."""
        return next(iter(self._cache.objects_of(key, (PIPELINES.kind,))), None)

    def children(self, key: PipelineKey) -> tuple[list[Object], int]:
        """The objects that the pipeline owns, or that carry its label, without its pods; and a hash of what a plan
        reads of them."""
        return self._cache.planned_objects_of(key, self._child_kinds)

    def pods(self, key: PipelineKey) -> list[Object]:
        return self._cache.objects_of(key, (PODS.kind,))

    def refusals(self, namespace: str) -> Mapping[str, ApiError]:
        """The kinds that the server does not let us watch in a namespace, each with its error."""
        return {
            watch.resource.kind: watch.refusal
            for watch in self._watches
            if watch.refusal and watch.scope in (None, namespace)
        }

    def pending_kinds(self, namespace: str) -> frozenset[str]:
        """The minor kinds whose objects in a namespace are not known yet."""
        return frozenset(
            watch.resource.kind
            for watch in self._watches
            if watch.is_minor and not watch.is_synced and watch.scope in (None, namespace)
        )

    def put_child(self, child: Object) -> None:
        """Keep the answer to the write of a child, because the watch reports it later."""
        self._cache.put_written(child)

    def put_status(self, pipeline: Object) -> None:
        """Keep the answer to the write of a pipeline's status."""
        self._cache.put_written(pipeline)

    def put_pipeline(self, pipeline: Object, notify: bool = True) -> None:
        """Keep a pipeline that was read or watched. `notify`: call `on_change` if it is new."""
        self._cache.put(pipeline, notify)

    def remove_pipeline(self, pipeline: Object) -> None:
        """Drop a pipeline that was deleted."""
        self._cache.remove(pipeline)

    def keep_only_pipelines(self, scope: Scope, keys: set[PipelineKey]) -> None:
        """Drop the pipelines of a scope that are not among these. If one exists after all, its next pass reads it."""
        self._cache.keep_only(PIPELINES.kind, scope, keys)

    def longest_silence(self) -> float:
        """Seconds since the server last sent something to the most silent watch; without those of minor kinds."""
        now = time.monotonic()
        return max((now - watch.last_message_at for watch in self._watches if not watch.is_minor), default=0.0)

    def _on_watch_change(self, scope: Scope) -> None:
        """A watch has listed its objects, or the server refuses them, or no longer does."""
        with self._lock:
            was_synced = self._is_synced
            self._is_synced = was_synced or all(
                watch.is_minor or watch.is_synced or watch.refusal for watch in self._watches
            )
            is_first = self._is_synced and not was_synced
        if is_first:
            self._on_synced()
        elif was_synced:
            self._cache.notify_all(scope)
