"""Spans of OpenTelemetry's SDK, exported as OTLP over HTTP in batches.

The SDK reads its own environment variables for everything except the endpoint: OTEL_TRACES_SAMPLER,
OTEL_EXPORTER_OTLP_HEADERS, OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME and others.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from omni_worker.telemetry.tracing import Attributes, Carrier, Span, Tracing

EXPORT_SECONDS = 3.0  # to export the last spans when the process ends
NANOSECONDS = 1_000_000_000
W3C = TraceContextTextMapPropagator()


class OtlpSpan(Span):
    """A span of the SDK."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        carrier: dict[str, str] = {}
        W3C.inject(carrier, trace.set_span_in_context(span, Context()))
        super().__init__(carrier, trace.format_trace_id(span.get_span_context().trace_id))

    def set_attributes(self, attributes: Attributes) -> None:
        self._span.set_attributes(dict(attributes))

    def fail(self, reason: str) -> None:
        self._span.set_status(Status(StatusCode.ERROR, reason))

    def end(self, at: float | None = None) -> None:
        self._span.end(_nanoseconds(at))


class OtlpTracing(Tracing):
    """Exports spans to the collector at `endpoint`."""

    is_on = True

    def __init__(self, endpoint: str, process: str) -> None:
        attributes: dict[str, str | int] = {
            "service.name": f"omni-{process}",
            "service.version": version("omnipipeline"),
            "process.pid": os.getpid(),
        }
        resource = Resource(attributes).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        self._tracer = self._provider.get_tracer("omnipipeline", version("omnipipeline"))

    @contextmanager
    def span(
        self, name: str, attributes: Attributes, parent: Carrier | None = None, kind: str = "internal"
    ) -> Iterator[Span]:
        context = None if parent is None else W3C.extract(parent)
        with self._tracer.start_as_current_span(name, context, SpanKind[kind.upper()], dict(attributes)) as span:
            yield OtlpSpan(span)

    def begin(
        self, name: str, attributes: Attributes, parent: Carrier, kind: str = "internal", at: float | None = None
    ) -> Span:
        context, start = W3C.extract(parent, Context()), _nanoseconds(at)
        span = self._tracer.start_span(name, context, SpanKind[kind.upper()], dict(attributes), start_time=start)
        return OtlpSpan(span)

    def close(self) -> None:
        """Export the spans that are left. Takes at most EXPORT_SECONDS, even if the collector does not answer."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(EXPORT_SECONDS)


def _nanoseconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * NANOSECONDS)
