"""Traces: the spans of requests, exported to an OpenTelemetry collector.

`start` returns the `Tracing` of a process. Without a collector it records nothing, costs nothing and does not import
OpenTelemetry.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

from omni_worker.errors import CommandError

REQUEST = "omni.request.id"
CLIENT_ID = "omni.request.client_id"
STAGE = "omni.stage"
REPLICA = "omni.replica"
OUTCOME = "omni.outcome"
Attributes = Mapping[str, str | int | float]
Carrier = Mapping[str, str]
"""The W3C headers `traceparent` and `tracestate`, which name the parent of a span in another process."""


class Span:
    """A span that is not recorded.

    trace_id: the id of its trace as log lines show it; None if it is not recorded
    carrier: names this span as the parent of spans in other processes
    """

    def __init__(self, carrier: Carrier | None = None, trace_id: str | None = None) -> None:
        self.carrier: Carrier = carrier or {}
        self.trace_id = trace_id

    def set_attributes(self, attributes: Attributes) -> None:
        """Add attributes to the span."""

    def fail(self, reason: str) -> None:
        """Mark the span as failed."""

    def end(self, at: float | None = None) -> None:
        """End a span that `begin` returned, at `at` (seconds since 1970) or now."""


NO_SPAN = Span()


class Tracing:
    """Records nothing. `OtlpTracing` is the implementation that does."""

    is_on = False

    def span(
        self, name: str, attributes: Attributes, parent: Carrier | None = None, kind: str = "internal"
    ) -> AbstractContextManager[Span]:
        """A span that lasts as long as the context manager, and is the parent of the spans inside it.

        parent: the span that it belongs to; by default, the enclosing one
        kind: internal, server (handles a call from another process) or client (calls another process)
        """
        return nullcontext(NO_SPAN)

    def begin(
        self, name: str, attributes: Attributes, parent: Carrier, kind: str = "internal", at: float | None = None
    ) -> Span:
        """A span that lasts from `at` (seconds since 1970), or now, until its `end` is called."""
        return NO_SPAN

    def close(self) -> None:
        """Export the spans that are left."""


def start(endpoint: str | None, process: str) -> Tracing:
    """Create the tracing of this process, which is a `head` or a `replica`.

    endpoint: the full URL of a collector's traces; without it, nothing is recorded

    Raises CommandError if OpenTelemetry is not installed.
    """
    if endpoint is None:
        return Tracing()
    try:
        from omni_worker.telemetry.tracing.otlp import OtlpTracing
    except ImportError as error:
        raise CommandError(
            f"traces are to go to {endpoint} (--otlp-traces-endpoint), and what sends them is not installed ({error}): "
            "pip install 'omnipipeline[tracing]'"
        ) from error
    return OtlpTracing(endpoint, process)
