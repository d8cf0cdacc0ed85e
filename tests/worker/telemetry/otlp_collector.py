"""A minimal OTLP collector: receives spans over HTTP and keeps them for the tests."""

import gzip
from dataclasses import dataclass, field

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from tests.loopback import Loopback, QuietHandler

PATH = "/v1/traces"


@dataclass
class Span:
    """One span, with the service that sent it and its child spans."""

    id: str
    trace: str
    parent: str
    name: str
    service: str
    attributes: dict
    began: int
    ended: int
    failed: bool
    children: list["Span"] = field(default_factory=list)

    def all(self, name: str) -> list["Span"]:
        """The child spans with this name."""
        return [child for child in self.children if child.name == name]

    def one(self, name: str) -> "Span":
        """The only child span with this name."""
        (child,) = self.all(name)
        return child

    @property
    def names(self) -> list[str]:
        """The names of the child spans, in order."""
        return [child.name for child in self.children]


class Collector(Loopback):
    """Receives spans until it is closed."""

    def __init__(self) -> None:
        self._spans: list[Span] = []
        collector = self

        class Handler(QuietHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                assert self.path == PATH
                assert self.headers["Content-Type"] == "application/x-protobuf"
                collector._spans += spans_of(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        super().__init__(Handler)

    def trace(self, id: str) -> list[Span]:
        """The spans of a trace without a known parent: one, once all have arrived. Children are sorted by time."""
        spans = {span.id: span for span in self._spans if span.trace == id}
        for span in spans.values():
            span.children = sorted((one for one in spans.values() if one.parent == span.id), key=lambda one: one.began)
        return [span for span in spans.values() if span.parent not in spans]


def spans_of(request: ExportTraceServiceRequest) -> list[Span]:
    return [
        Span(
            span.span_id.hex(),
            span.trace_id.hex(),
            span.parent_span_id.hex(),
            span.name,
            values(resource_spans.resource.attributes)["service.name"],
            values(span.attributes),
            span.start_time_unix_nano,
            span.end_time_unix_nano,
            span.status.code == Status.STATUS_CODE_ERROR,
        )
        for resource_spans in request.resource_spans
        for scope in resource_spans.scope_spans
        for span in scope.spans
    ]


def values(attributes) -> dict:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}
