"""Leaves namespaces to operators that are for those alone: an operator for all looks at their Leases, and keeps out.

Such a Lease is live while it changes, by the clock of the one who looks; one that is seen for the first time counts as
live until it could have run out. Before the first look every namespace is left alone.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from omni_operator.kube.client import Cluster
from omni_operator.kube.errors import ApiError, Unreachable
from omni_operator.kube.resources import LEASES
from omni_operator.planning.lease import RETRY_SECONDS, LeaseVersion, is_held, observe_lease

logger = logging.getLogger(__name__)


class Neighbours:
    """`changed` is told, from a thread, when the namespaces that are left to others are not the same as before."""

    def __init__(self, cluster: Cluster, lease: str) -> None:
        self._cluster, self._lease = cluster, lease
        self._seen: dict[str, LeaseVersion] = {}
        self._served: frozenset[str] | None = None
        self._trouble = ""

    def serve(self, namespace: str) -> bool:
        """Whether that namespace is left to another operator, or may be."""
        return self._served is None or namespace in self._served

    def start(self, changed: Callable[[], object]) -> None:
        threading.Thread(target=self._look_for_ever, args=(changed,), name="neighbours", daemon=True).start()

    def _look_for_ever(self, changed: Callable[[], object]) -> None:
        while True:
            before = self._served
            self._look()
            if self._served != before:
                for namespace in sorted(self._served or ()):
                    logger.info("namespace %s is left to the operator that holds the Lease there", namespace)
                changed()
            time.sleep(RETRY_SECONDS)

    def _look(self) -> None:
        try:
            leases = self._cluster.list_by_name(LEASES, self._lease)
        except (ApiError, Unreachable) as error:
            if isinstance(error, ApiError) and not error.is_transient:
                self._served = frozenset()
            if str(error) != self._trouble:
                logger.warning("operators for single namespaces cannot be seen, and may act beside this one: %s", error)
            self._trouble = str(error)
            return
        self._trouble = ""
        self._served = frozenset(self._held(leases, time.monotonic()))

    def _held(self, leases: Iterable[Mapping[str, Any]], now: float) -> list[str]:
        looks = {lease["metadata"]["namespace"]: lease for lease in leases}
        known = {namespace: observe_lease(lease, self._seen.get(namespace), now) for namespace, lease in looks.items()}
        self._seen = {namespace: one for namespace, one in known.items() if one}
        return [namespace for namespace, one in self._seen.items() if is_held(looks[namespace], one, now)]
