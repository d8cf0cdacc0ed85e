"""Watches the objects of one kind, in a thread: lists all of them, then follows every change, until the process ends.

A watch that breaks resumes where it stopped. If the server no longer has that version, the watch lists all objects
again. Every watch also does so every ten minutes or so, in case it missed a change.
"""

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Protocol

from omni_operator.crd.objects import Object, Scope
from omni_operator.kube.client import Cluster
from omni_operator.kube.errors import ApiError, Unreachable, error_from_status
from omni_operator.kube.resources import Resource

logger = logging.getLogger(__name__)

FIRST_DELAY_SECONDS = 0.2
MAX_DELAY_SECONDS = 15.0
RELIST_SECONDS = 600.0
SHORT_WATCH_SECONDS = 1.0
"""A watch that ends sooner, without an event, is not repeated at once."""


class ObjectSink(Protocol):
    """What receives the objects of a watch."""

    def put(self, child: Object) -> None: ...

    def remove(self, child: Object) -> None: ...

    def keep_only(self, kind: str, scope: Scope, names: set[tuple[str, str]]) -> None: ...


class Watch:
    """The watch of one kind in one scope.

    `refusal` is the server's error while it does not let us read the kind, otherwise None. `last_message_at` is the
    monotonic time at which the server last sent something. `on_synced` is called once: when all objects of the first
    list are in the sink, or when the server refuses to list them.
    """

    def __init__(
        self,
        cluster: Cluster,
        resource: Resource,
        scope: Scope,
        selector: str,
        sink: ObjectSink,
        on_synced: Callable[[], None],
    ) -> None:
        self.resource, self.scope = resource, scope
        self.last_message_at = time.monotonic()
        self.refusal: ApiError | None = None
        self._cluster, self._selector, self._sink, self._on_synced = cluster, selector, sink, on_synced
        self._is_synced = False
        self._version = ""
        self._failures = 0
        self._relist_at = 0.0

    def start(self) -> None:
        threading.Thread(target=self._run, name=f"watch-{self.resource.plural}", daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                if not self._version or time.monotonic() >= self._relist_at:
                    self._list()
                started = time.monotonic()
                if not self._follow() and time.monotonic() - started < SHORT_WATCH_SECONDS:
                    self._pause()  # otherwise a server that ends each watch at once would see a busy loop
            # ValueError and KeyError: the answer is not what a watch should send.
            except (ApiError, Unreachable, ValueError, KeyError) as error:
                self._handle(error)

    def _handle(self, error: Exception) -> None:
        if isinstance(error, ApiError):
            if error.status == 410:
                logger.info("watch of %s begins anew: %s", self.resource.plural, error)
                self._version = ""
            if error.status == 403:  # a refusal is an answer, so the watch is not silent
                self.refusal, self.last_message_at = error, time.monotonic()
                self._mark_synced()
        else:
            logger.warning("watch of %s: %s", self.resource.plural, error)
        self._pause(getattr(error, "retry_after", 0.0))

    def _pause(self, min_delay: float = 0.0) -> None:
        backoff = min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(self._failures, 10))
        self._failures += 1
        time.sleep(max(min_delay, backoff * random.uniform(0.8, 1.2)))

    def _list(self) -> None:
        """Put all objects into the sink, page by page, and then drop those that no longer exist."""
        names: set[tuple[str, str]] = set()
        latest = ""
        for items, version in self._cluster.pages(self.resource, self.scope, self._selector):
            latest = version
            for item in items:
                names.add((item["metadata"]["namespace"], item["metadata"]["name"]))
                self._sink.put(item)
        self._sink.keep_only(self.resource.kind, self.scope, names)
        self._version, self._failures = latest, 0
        self.last_message_at = time.monotonic()
        self._relist_at = self.last_message_at + RELIST_SECONDS * random.uniform(0.8, 1.2)
        self._mark_synced()

    def _follow(self) -> bool:
        """Pass changes to the sink until the stream ends. Returns whether there was any event."""
        has_events = False
        events = self._cluster.watch(self.resource, self.scope, self._selector, self._version)
        self.refusal = None
        for event in events:
            changed, event_type = event["object"], event["type"]
            if event_type == "ERROR":
                raise error_from_status(changed)
            has_events, self._failures, self.last_message_at = True, 0, time.monotonic()
            self._version = changed["metadata"]["resourceVersion"]
            if event_type == "DELETED":
                self._sink.remove(changed)
            elif event_type != "BOOKMARK":
                self._sink.put(changed)
        self.last_message_at = time.monotonic()
        return has_events

    def _mark_synced(self) -> None:
        if not self._is_synced:
            self._is_synced = True
            self._on_synced()
