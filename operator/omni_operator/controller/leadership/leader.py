"""Holds the Lease that decides which of several operators acts: acquires it, renews it, and releases it. Blocking.

`planning.lease` decides; this module executes, in a thread. Before each write the operator asks `is_leading`, so an
operator that lost its connection stops before another one starts.
"""

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from omni_operator.controller.background import Background
from omni_operator.kube.client import Cluster
from omni_operator.kube.errors import ApiError, Unreachable
from omni_operator.kube.resources import LEASES
from omni_operator.planning.lease import RETRY_SECONDS, LeaseVersion, is_leading, lease_object, next_step, observe_lease

logger = logging.getLogger(__name__)

NAMESPACE_LEASE = "omni-operator"
"""Name of the Lease of an operator for single namespaces, in each of them."""
CLUSTER_LEASE = "omni-operator-all"
"""Name of the Lease of an operator for all namespaces, in its own."""


class Leader:
    """One operator's part in the election over one Lease. `identity`: this operator's name in the Lease."""

    def __init__(self, cluster: Cluster, namespace: str, name: str, identity: str) -> None:
        self._cluster, self._namespace, self._name, self._identity = cluster, namespace, name, identity
        self._observed: LeaseVersion | None = None
        self._renewed_at: float | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def is_leading(self) -> bool:
        """Whether this operator may act now."""
        return is_leading(self._renewed_at, time.monotonic())

    def start(self, on_change: Callable[[bool], object], background: Background) -> None:
        """Start the thread. It calls `on_change` with True when this operator starts to lead, and with False when it
        stops."""
        self._thread = background.start_thread(f"lease-{self._namespace}", partial(self._run, on_change))

    def stop(self) -> None:
        """Stop leading, and release the Lease so that another operator can lead at once."""
        self._stopped.set()
        if self._thread:
            self._thread.join(RETRY_SECONDS)
        if self.is_leading:
            self._renewed_at = None
            self._update_lease(is_release=True)

    def _run(self, on_change: Callable[[bool], object]) -> None:
        was_leading = False
        while not self._stopped.is_set():
            self._update_lease()
            if self.is_leading is not was_leading:
                was_leading = self.is_leading
                change = "acts from now on" if was_leading else "another operator acts"
                logger.info("%s: %s, by the Lease %s/%s", self._identity, change, self._namespace, self._name)
                on_change(was_leading)
            self._stopped.wait(RETRY_SECONDS)

    def _update_lease(self, is_release: bool = False) -> None:
        """Read the Lease once, and create, acquire, renew or release it if that is this operator's turn."""
        started = time.monotonic()
        try:
            lease = self._cluster.get(LEASES, self._namespace, self._name)
            self._observed = observe_lease(lease, self._observed, started)
            step = next_step(lease, self._observed, self._identity, started)
            if step == "wait" or (is_release and step != "renew"):
                self._renewed_at = None
                return
            moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            content = lease_object(lease, self._name, self._namespace, "" if is_release else self._identity, moment)
            # The content carries the version that was read, so the server rejects it if somebody wrote since then.
            (self._cluster.create if step == "create" else self._cluster.replace)(LEASES, content)
            if not is_release:
                self._renewed_at = started
        except ApiError as error:
            if error.status == 409:
                self._renewed_at = None
            else:
                logger.warning("the Lease %s/%s cannot be held: %s", self._namespace, self._name, error)
        except Unreachable as error:
            logger.warning("the Lease %s/%s cannot be renewed: %s", self._namespace, self._name, error)
