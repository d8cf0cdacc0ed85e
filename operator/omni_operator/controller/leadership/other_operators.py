"""The namespaces that other operators serve. An operator for all namespaces watches their Leases and stays out.

Such a Lease is valid while it keeps changing, by the clock of this process. A Lease that is seen for the first time
counts as valid until it could have expired. Before the first look, every namespace counts as served.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable

from omni_operator.crd.objects import Object
from omni_operator.kube.client import Cluster
from omni_operator.kube.errors import ApiError, Unreachable
from omni_operator.kube.resources import LEASES
from omni_operator.planning.lease import RETRY_SECONDS, LeaseVersion, is_held, observe_lease

logger = logging.getLogger(__name__)


class OtherOperators:
    """The operators for single namespaces. `lease`: the name of the Lease that each holds in its namespace."""

    def __init__(self, cluster: Cluster, lease: str) -> None:
        self._cluster, self._lease = cluster, lease
        self._observed: dict[str, LeaseVersion] = {}
        self._served: frozenset[str] | None = None
        self._last_problem = ""

    def is_served(self, namespace: str) -> bool:
        """Whether another operator serves that namespace, or might."""
        return self._served is None or namespace in self._served

    def start(self, on_change: Callable[[], object]) -> None:
        """Start a thread that calls `on_change` whenever the set of served namespaces changes."""
        threading.Thread(target=self._run, args=(on_change,), name="other-operators", daemon=True).start()

    def _run(self, on_change: Callable[[], object]) -> None:
        while True:
            before = self._served
            self._read_leases()
            if self._served != before:
                for namespace in sorted(self._served or ()):
                    logger.info("namespace %s is left to the operator that holds the Lease there", namespace)
                on_change()
            time.sleep(RETRY_SECONDS)

    def _read_leases(self) -> None:
        try:
            leases = self._cluster.list_by_name(LEASES, self._lease)
        except (ApiError, Unreachable) as error:
            if isinstance(error, ApiError) and not error.is_transient:
                self._served = frozenset()
            if str(error) != self._last_problem:
                logger.warning("operators for single namespaces cannot be seen, and may act beside this one: %s", error)
            self._last_problem = str(error)
            return
        self._last_problem = ""
        self._served = frozenset(self._served_by(leases, time.monotonic()))

    def _served_by(self, leases: Iterable[Object], now: float) -> list[str]:
        """The namespaces whose Lease somebody holds."""
        by_namespace = {lease["metadata"]["namespace"]: lease for lease in leases}
        latest = {
            namespace: observe_lease(lease, self._observed.get(namespace), now)
            for namespace, lease in by_namespace.items()
        }
        self._observed = {namespace: one for namespace, one in latest.items() if one}
        return [namespace for namespace, one in self._observed.items() if is_held(by_namespace[namespace], one, now)]
