"""Follows the objects of one kind, for ever, from a thread of its own: all there are, then every change.

A watch that breaks goes on where it was; one whose version the server no longer knows begins anew, and so does every
watch now and then, in case something was missed.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Protocol

from omni_operator.crd.objects import Object
from omni_operator.kube.client import Cluster
from omni_operator.kube.errors import ApiError, Unreachable, error_from_status
from omni_operator.kube.resources import Resource

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.2
MOST_PAUSE_SECONDS = 15.0
ANEW_SECONDS = 600.0


class Hearer(Protocol):
    """What a watch tells."""

    def put(self, child: Object) -> None: ...

    def remove(self, child: Object) -> None: ...

    def keep_only(self, kind: str, scope: str | None, names: set[tuple[str, str]]) -> None: ...


class Watch:
    """`refusal`: why the server does not let us look at the kind, where it does not. `ready` is called when what there
    was at the beginning has been told, or that it may not be looked at."""

    def __init__(
        self,
        cluster: Cluster,
        resource: Resource,
        namespace: str | None,
        selector: str,
        hearer: Hearer,
        ready: Callable[[], None],
    ) -> None:
        self.resource, self.namespace = resource, namespace
        self.last_heard = time.monotonic()
        self.refusal: ApiError | None = None
        self._cluster, self._selector, self._hearer, self._ready = cluster, selector, hearer, ready
        self._is_ready = False
        self._version = ""
        self._failures = 0
        self._anew_at = 0.0

    def start(self) -> None:
        threading.Thread(target=self._run, name=f"watch-{self.resource.plural}", daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                if not self._version or time.monotonic() >= self._anew_at:
                    self._list()
                began = time.monotonic()
                if not self._follow() and time.monotonic() - began < 1.0:
                    self._pause()  # a server that ends each watch at once is not to be asked in a circle
            # The last two: an answer that is not what a watch should say.
            except (ApiError, Unreachable, ValueError, KeyError) as error:
                self._take(error)

    def _take(self, error: Exception) -> None:
        if isinstance(error, ApiError):
            if error.status == 410:
                logger.info("watch of %s begins anew: %s", self.resource.plural, error)
                self._version = ""
            if error.status == 403:  # an answer, too, and no silence
                self.refusal, self.last_heard = error, time.monotonic()
                self._begun()
        else:
            logger.warning("watch of %s: %s", self.resource.plural, error)
        self._pause(getattr(error, "retry_after", 0.0))

    def _pause(self, least: float = 0.0) -> None:
        usual = min(MOST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(self._failures, 10))
        self._failures += 1
        time.sleep(max(least, usual * random.uniform(0.8, 1.2)))

    def _list(self) -> None:
        """Tell all there is, page by page, and then what is no more."""
        names: set[tuple[str, str]] = set()
        latest = ""
        for items, version in self._cluster.pages(self.resource, self.namespace, self._selector):
            latest = version
            for item in items:
                names.add((item["metadata"]["namespace"], item["metadata"]["name"]))
                self._hearer.put(item)
        self._hearer.keep_only(self.resource.kind, self.namespace, names)
        self._version, self._failures = latest, 0
        self.last_heard = time.monotonic()
        self._anew_at = self.last_heard + ANEW_SECONDS * random.uniform(0.8, 1.2)
        self._begun()

    def _follow(self) -> bool:
        """Tell what happens, until the stream ends. Returns whether anything was heard."""
        is_heard = False
        events = self._cluster.watch(self.resource, self.namespace, self._selector, self._version)
        self.refusal = None
        for event in events:
            found, kind = event["object"], event["type"]
            if kind == "ERROR":
                raise error_from_status(found)
            is_heard, self._failures, self.last_heard = True, 0, time.monotonic()
            self._version = found["metadata"]["resourceVersion"]
            if kind == "DELETED":
                self._hearer.remove(found)
            elif kind != "BOOKMARK":
                self._hearer.put(found)
        self.last_heard = time.monotonic()
        return is_heard

    def _begun(self) -> None:
        if not self._is_ready:
            self._is_ready = True
            self._ready()
