"""What there is of every pipeline's children: the watches of all their kinds, and the store that they fill."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from omni_operator.cluster import PODS, ApiError, Cluster, Object
from omni_operator.manifests.labels import MANAGED_SELECTOR
from omni_operator.store import Key, Store
from omni_operator.watching import Watch


class Observer:
    """`changed` hears the pipeline of which a child changed, from the threads of the watches."""

    def __init__(self, cluster: Cluster, scopes: Sequence[str | None], changed: Callable[[Key], None]) -> None:
        self._store = Store(changed)
        self._kinds = tuple(cluster.children)
        self._lock = threading.Lock()
        self._whole: Callable[[], None] = lambda: None
        resources = (*cluster.children.values(), PODS)
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
