"""Spans for the requests of clients, as ASGI middleware. They continue a client's trace if it sends `traceparent`."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omni_worker.telemetry.tracing import CLIENT_ID, REQUEST, Tracing

TRACE_CONTEXT_HEADERS = ("traceparent", "tracestate")
"""Those of W3C Trace Context."""
SERVER_ERROR = 500


class RequestSpans:
    """Records a span for every POST of the API: the requests that generate something."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        parent = {name: headers[name] for name in TRACE_CONTEXT_HEADERS if name in headers}
        state = scope["state"]
        attributes = {"http.request.method": "POST", "url.path": scope["path"], REQUEST: state["request_id"]}
        if state["client_id"] is not None:
            attributes[CLIENT_ID] = state["client_id"]
        with self._tracing.span(f"POST {scope['path']}", attributes, parent, "server") as span:

            async def send_and_record_status(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attributes({"http.response.status_code": message["status"]})
                    if message["status"] >= SERVER_ERROR:
                        span.fail(f"HTTP {message['status']}")
                await send(message)

            await self._app(scope, receive, send_and_record_status)
