"""The namespaces that other operators serve. An operator for all namespaces watches their Leases and stays out.

Such a Lease is valid while it keeps changing, by the clock of this process. A Lease that is seen for the first time
counts as valid until it could have expired. A watch that has died looks like holders that have died, so the Leases are
read once before one counts as expired. Before the first look, every namespace counts as served.
"""

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from omni_operator.controller.background import Background
from omni_operator.controller.watches.watch import Watch
from omni_operator.crd.objects import Object, Scope
from omni_operator.kube.client import Cluster
from omni_operator.kube.errors import ApiError, Unreachable
from omni_operator.kube.resources import LEASES
from omni_operator.planning.lease import RETRY_SECONDS, LeaseVersion, is_held, observe_lease

logger = logging.getLogger(__name__)


class OtherOperators:
    """The operators for single namespaces. `lease`: the name of the Lease that each holds in its namespace.

    Receives the objects of the watch of these Leases.
    """

    def __init__(self, cluster: Cluster, lease: str) -> None:
        self._cluster = cluster
        self._fields = f"metadata.name={lease}"
        self._watch = Watch(cluster, LEASES, None, "", self, self._wake, self._fields)
        self._lock = threading.Lock()
        self._leases: dict[str, tuple[Object, LeaseVersion]] = {}
        """By namespace: the Lease, and when its version was first seen."""
        self._expired: dict[str, LeaseVersion] = {}
        """The versions that had expired when the Leases were read to make sure."""
        self._served: frozenset[str] | None = None
        self._changed = threading.Event()
        self._last_problem = ""

    def is_served(self, namespace: str) -> bool:
        """Whether another operator serves that namespace, or might."""
        return self._served is None or namespace in self._served

    def start(self, on_change: Callable[[], object], background: Background) -> None:
        """Start the threads. `on_change` is called whenever the set of served namespaces changes."""
        background.start_thread("watch-leases", self._watch.run)
        background.start_thread("other-operators", partial(self._run, on_change))

    # ---- what the watch reports

    def put(self, lease: Object) -> None:
        namespace = lease["metadata"]["namespace"]
        with self._lock:
            _, before = self._leases.get(namespace, (None, None))
            if observed := observe_lease(lease, before, time.monotonic()):
                self._leases[namespace] = lease, observed
        self._wake()

    def remove(self, lease: Object) -> None:
        with self._lock:
            self._leases.pop(lease["metadata"]["namespace"], None)
        self._wake()

    def keep_only(self, kind: str, scope: Scope, names: set[tuple[str, str]], version: str) -> None:
        namespaces = {namespace for namespace, _ in names}
        with self._lock:
            self._leases = {key: value for key, value in self._leases.items() if key in namespaces}
        self._wake()

    # ---- what follows from it

    def _wake(self) -> None:
        self._changed.set()

    def _run(self, on_change: Callable[[], object]) -> None:
        while True:
            before, self._served = self._served, self._look()
            if self._served != before:
                for namespace in sorted(self._served or ()):
                    logger.info("namespace %s is left to the operator that holds the Lease there", namespace)
                on_change()
            self._changed.wait(RETRY_SECONDS)
            self._changed.clear()

    def _look(self) -> frozenset[str] | None:
        """The namespaces whose Lease somebody holds; None if they are not known yet."""
        if self._watch.refusal:
            self._log_problem(self._watch.refusal)
            return frozenset()
        if not self._watch.is_synced:
            return None
        if expired := self._newly_expired():
            try:
                leases = self._cluster.list_objects(LEASES, None, "", self._fields)
            except (ApiError, Unreachable) as error:
                self._log_problem(error)
                return self._served  # nobody may act there until it is certain
            for lease in leases:
                self.put(lease)
            self._expired = expired
        self._last_problem = ""
        now = time.monotonic()
        with self._lock:
            return frozenset(key for key, (lease, observed) in self._leases.items() if is_held(lease, observed, now))

    def _newly_expired(self) -> dict[str, LeaseVersion]:
        """All expired versions, if there is one among them that has not been read to make sure."""
        now = time.monotonic()
        with self._lock:
            leases = self._leases.items()
            expired = {key: observed for key, (lease, observed) in leases if not is_held(lease, observed, now)}
        return expired if expired.items() - self._expired.items() else {}

    def _log_problem(self, error: ApiError | Unreachable) -> None:
        if str(error) != self._last_problem:
            logger.warning("operators for single namespaces cannot be seen, and may act beside this one: %s", error)
        self._last_problem = str(error)
