"""What there is of every pipeline and its children: the store of them, and the watches of all the children's kinds."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from omni_operator.controller.watches.object_cache import Key, Store
from omni_operator.controller.watches.watch import Watch
from omni_operator.crd.objects import Object
from omni_operator.kube.client import Cluster
from omni_operator.kube.errors import ApiError
from omni_operator.kube.resources import PIPELINES, PODS
from omni_operator.planning.manifests.labels import MANAGED_SELECTOR


class Observer:
    """`changed` hears the pipeline of which a child changed, from the threads of the watches."""

    def __init__(self, cluster: Cluster, scopes: Sequence[str | None], changed: Callable[[Key], None]) -> None:
        self._store = Store(changed)
        self._kinds = tuple(cluster.child_resources)
        self._lock = threading.Lock()
        self._whole: Callable[[], None] = lambda: None
        resources = (*cluster.child_resources.values(), PODS)
        self._watches = [
            Watch(cluster, resource, scope, MANAGED_SELECTOR, self._store, self._begun)
            for scope in scopes
            for resource in resources
        ]
        self._missing = len(self._watches)

    def start(self, whole: Callable[[], None]) -> None:
        """Begin to watch; `whole` is called once all that there is has been seen."""
        self._whole = whole
        for watch in self._watches:
            watch.start()

    def pipeline(self, key: Key) -> Object | None:
        """The pipeline as it was last heard of."""
        return next(iter(self._store.of(key, (PIPELINES.kind,))), None)

    def children(self, key: Key) -> list[Object]:
        """What carries the pipeline's labels, or is owned by it."""
        return self._store.of(key, self._kinds)

    def pods(self, key: Key) -> list[Object]:
        return self._store.of(key, (PODS.kind,))

    def unseen(self, namespace: str) -> Mapping[str, ApiError]:
        """The kinds that may not be looked at in a namespace, each with the server's words."""
        return {
            watch.resource.kind: watch.refusal
            for watch in self._watches
            if watch.refusal and watch.namespace in (None, namespace)
        }

    def wrote(self, child: Object) -> None:
        """Take the answer to a write, of which the watches will tell a little later."""
        self._store.put(child)

    def saw(self, pipeline: Object, is_told: bool = True) -> None:
        """Take what a watch of pipelines tells, or what was read or written; `changed` hears of news if `is_told`."""
        self._store.put(pipeline, is_told)

    def lost(self, pipeline: Object) -> None:
        """Take it that a pipeline is no more."""
        self._store.remove(pipeline)

    def only(self, scope: str | None, keys: set[Key]) -> None:
        """Take it that a scope has these pipelines, and no others; of one that is not kept, a pass asks."""
        self._store.keep_only(PIPELINES.kind, scope, keys)

    def silence(self) -> float:
        """Seconds for which the most silent watch has heard nothing."""
        now = time.monotonic()
        return max((now - watch.last_heard for watch in self._watches), default=0.0)

    def _begun(self) -> None:
        with self._lock:
            self._missing -= 1
            is_whole = self._missing == 0
        if is_whole:
            self._whole()
