"""Spans: where a request was, and for how long, told to an OpenTelemetry collector.

`start` gives the `Tracing` of a process. Where no collector is named, that is one which tells nothing, costs nothing,
and imports nothing of OpenTelemetry.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

from omni_worker.errors import CommandError

REQUEST = "omni.request.id"
STAGE = "omni.stage"
REPLICA = "omni.replica"
OUTCOME = "omni.outcome"
Attributes = Mapping[str, str | int | float]
Carrier = Mapping[str, str]
"""`traceparent` and `tracestate`, as W3C has them: who a span is, to whoever goes on with it."""


class Span:
    """One that is told of to nobody. `trace_id` is as logs have it; `carrier` is for what goes on elsewhere."""

    def __init__(self, carrier: Carrier | None = None, trace_id: str | None = None) -> None:
        self.carrier: Carrier = carrier or {}
        self.trace_id = trace_id

    def note(self, attributes: Attributes) -> None:
        """Add to what is told of it."""

    def fail(self, why: str) -> None:
        """It came to no good end."""

    def end(self, at: float | None = None) -> None:
        """It is over, since `at`, in seconds since 1970, or now; for one that `begin` gave."""


NO_SPAN = Span()


class Tracing:
    """Tells nothing."""

    is_on = False

    def span(
        self, name: str, attributes: Attributes, parent: Carrier | None = None, kind: str = "internal"
    ) -> AbstractContextManager[Span]:
        """A span that lasts as long as it is entered, and is the parent of those made inside; its own is the one around
        it, unless `parent` is given. `kind`: internal, server (asked from elsewhere) or client (asks elsewhere)."""
        return nullcontext(NO_SPAN)

    def begin(
        self, name: str, attributes: Attributes, parent: Carrier, kind: str = "internal", at: float | None = None
    ) -> Span:
        """A span that lasts from `at`, or now, until its `end`."""
        return NO_SPAN

    def close(self) -> None:
        """Tell what is left to tell."""


def start(endpoint: str | None, who: str) -> Tracing:
    """Tell `endpoint`, the full URL of a collector's traces; `who`: head or replica. None tells nobody.

    Raises CommandError where OpenTelemetry is not installed.
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
    return OtlpTracing(endpoint, who)
