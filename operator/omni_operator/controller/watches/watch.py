"""Watches the objects of one kind, in a thread: lists all of them, then follows every change, until the process ends.

A watch that breaks resumes where it stopped. If the server no longer has that version, the watch lists all objects
again. Every watch also does so every ten minutes or so, in case it missed a change.

A server that refuses is asked again, with growing delays. The reason is logged once, until it changes or the watch
works again.
"""

import logging
import random
import time
from collections.abc import Callable
from typing import Protocol

from omni_operator.crd.objects import Object, Scope
from omni_operator.kube.client import Cluster
from omni_operator.kube.errors import ApiError, Unreachable, error_from_status
from omni_operator.kube.resources import OPTIONAL_KINDS, Resource

logger = logging.getLogger(__name__)

FIRST_DELAY_SECONDS = 0.2
MAX_DELAY_SECONDS = 15.0
RELIST_SECONDS = 600.0
REFUSED_AFTER = 3
"""Failures in a row after which a minor kind counts as refused, whatever the error."""
SHORT_WATCH_SECONDS = 1.0
"""A watch that ends sooner, without an event, is not repeated at once."""


class ObjectSink(Protocol):
    """What receives the objects of a watch."""

    def put(self, child: Object) -> object: ...

    def remove(self, child: Object) -> None: ...

    def keep_only(self, kind: str, scope: Scope, names: set[tuple[str, str]], version: str) -> None: ...


class Watch:
    """The watch of one kind in one scope.

    `refusal` is the server's error while it does not let us read the kind, otherwise None. For a minor kind, which no
    pipeline needs to serve, every lasting error is a refusal, such as that of a dead conversion webhook. For the others
    only a missing right is one: any other error has to be over before passes can start.

    `last_message_at` is the monotonic time at which the server last sent something. `on_change` is called after
    `is_synced` or `refusal` has changed. `is_synced`: all objects of the first list are in the sink.
    """

    def __init__(
        self,
        cluster: Cluster,
        resource: Resource,
        scope: Scope,
        selector: str,
        sink: ObjectSink,
        on_change: Callable[[], None],
        fields: str = "",
    ) -> None:
        """`selector` and `fields` choose the objects by labels and by fields."""
        self.resource, self.scope = resource, scope
        self.is_minor = resource.kind in OPTIONAL_KINDS
        self.last_message_at = time.monotonic()
        self.refusal: ApiError | None = None
        self.is_synced = False
        self._cluster, self._selector, self._sink, self._on_change = cluster, selector, sink, on_change
        self._fields = fields
        self._version = ""
        self._failures = 0
        self._failures_in_a_row = 0
        """Since the server last accepted a list or a watch."""
        self._relist_at = 0.0
        self._logged_problem = ""

    def run(self) -> None:
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
        self._failures_in_a_row += 1
        if isinstance(error, ApiError) and error.status == 410:
            logger.info("watch of %s lists all objects again: %s", self.resource.plural, error)
            self._version = ""
        elif str(error) != self._logged_problem:
            self._logged_problem = str(error)
            logger.warning("watch of %s%s: %s; it is tried again", self.resource.plural, self._where, error)
        is_denied = isinstance(error, ApiError) and error.status == 403
        if is_denied:  # a refusal is an answer, so the watch is not silent
            self.last_message_at = time.monotonic()
        if is_denied or (self.is_minor and self._is_lasting(error)):
            self._set_refusal(error if isinstance(error, ApiError) else ApiError(0, "Unreadable", str(error)))
        self._pause(getattr(error, "retry_after", 0.0))

    def _is_lasting(self, error: Exception) -> bool:
        is_an_answer = isinstance(error, ApiError) and not error.is_transient and error.status != 410
        return is_an_answer or self._failures_in_a_row >= REFUSED_AFTER

    @property
    def _where(self) -> str:
        return f" in namespace {self.scope}" if self.scope else ""

    def _set_refusal(self, refusal: ApiError | None) -> None:
        is_changed = str(refusal) != str(self.refusal)
        self.refusal = refusal
        if is_changed:
            self._on_change()

    def _pause(self, min_delay: float = 0.0) -> None:
        backoff = min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(self._failures, 10))
        self._failures += 1
        time.sleep(max(min_delay, backoff * random.uniform(0.8, 1.2)))

    def _list(self) -> None:
        """Put all objects into the sink, page by page, and then drop those that no longer exist."""
        names: set[tuple[str, str]] = set()
        latest = ""
        for items, version in self._cluster.pages(self.resource, self.scope, self._selector, self._fields):
            latest = version
            for item in items:
                names.add((item["metadata"]["namespace"], item["metadata"]["name"]))
                self._sink.put(item)
        self._sink.keep_only(self.resource.kind, self.scope, names, latest)
        self._version, self._failures = latest, 0
        self.last_message_at = time.monotonic()
        self._relist_at = self.last_message_at + RELIST_SECONDS * random.uniform(0.8, 1.2)
        if not self.is_synced:
            self.is_synced = True
            self._on_change()

    def _follow(self) -> bool:
        """Pass changes to the sink until the stream ends. Returns whether there was any event."""
        has_events = False
        events = self._cluster.watch(self.resource, self.scope, self._selector, self._version, self._fields)
        self._failures_in_a_row = 0
        if self._logged_problem:
            logger.info("watch of %s%s: works again", self.resource.plural, self._where)
            self._logged_problem = ""
        self._set_refusal(None)
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
