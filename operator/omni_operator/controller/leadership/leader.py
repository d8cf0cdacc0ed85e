"""Holds the Lease by which one of several operators acts: takes it, renews it from a thread, gives it back. Blocking.

`election` decides; here it is done. Every write of the operator asks `is_leading` first, so that one that was cut off
stops before another begins.
"""

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from omni_operator.kube.client import Cluster
from omni_operator.kube.errors import ApiError, Unreachable
from omni_operator.kube.resources import LEASES
from omni_operator.planning.lease import RETRY_SECONDS, LeaseVersion, is_leading, lease_object, next_step, observe_lease

logger = logging.getLogger(__name__)


class Leader:
    """`changed` is told, from the thread of the Lease, whether this operator acts from now on."""

    def __init__(self, cluster: Cluster, namespace: str, name: str, identity: str) -> None:
        self._cluster, self._namespace, self._name, self._identity = cluster, namespace, name, identity
        self._seen: LeaseVersion | None = None
        self._renewed: float | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def is_leading(self) -> bool:
        """Whether this operator may act now."""
        return is_leading(self._renewed, time.monotonic())

    def start(self, changed: Callable[[bool], object]) -> None:
        self._thread = threading.Thread(target=self._hold, args=(changed,), name="lease", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Act no more, and let another do so at once."""
        self._stopped.set()
        if self._thread:
            self._thread.join(RETRY_SECONDS)
        if self.is_leading:
            self._renewed = None
            self._try(is_last=True)

    def _hold(self, changed: Callable[[bool], object]) -> None:
        told = False
        while not self._stopped.is_set():
            self._try()
            if self.is_leading is not told:
                told = self.is_leading
                news = "acts from now on" if told else "another operator acts"
                logger.info("%s: %s, by the Lease %s/%s", self._identity, news, self._namespace, self._name)
                changed(told)
            self._stopped.wait(RETRY_SECONDS)

    def _try(self, is_last: bool = False) -> None:
        """One look at the Lease, and what follows from it."""
        began = time.monotonic()
        try:
            lease = self._cluster.get(LEASES, self._namespace, self._name)
            self._seen = observe_lease(lease, self._seen, began)
            step = next_step(lease, self._seen, self._identity, began)
            if step == "wait" or (is_last and step != "renew"):
                self._renewed = None
                return
            moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            content = lease_object(lease, self._name, self._namespace, "" if is_last else self._identity, moment)
            # Refused where another wrote since it was read: the version is in it.
            (self._cluster.create if step == "create" else self._cluster.replace)(LEASES, content)
            if not is_last:
                self._renewed = began
        except ApiError as error:
            if error.status == 409:
                self._renewed = None
            else:
                logger.warning("the Lease %s/%s cannot be held: %s", self._namespace, self._name, error)
        except Unreachable as error:
            logger.warning("the Lease %s/%s cannot be renewed: %s", self._namespace, self._name, error)
