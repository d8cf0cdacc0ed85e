"""The span of a client's request, which goes on with the client's own trace where it sends a `traceparent`. ASGI."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omni_worker.telemetry.tracing import REQUEST, Tracing

W3C = ("traceparent", "tracestate")
SERVER_ERROR = 500


class Traced:
    """Of every request that asks for something to be made: the POSTs of the API."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        parent = {name: headers[name] for name in W3C if name in headers}
        told = {"http.request.method": "POST", "url.path": scope["path"], REQUEST: scope["state"]["request_id"]}
        with self._tracing.span(f"POST {scope['path']}", told, parent, "server") as span:

            async def send_and_note(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attributes({"http.response.status_code": message["status"]})
                    if message["status"] >= SERVER_ERROR:
                        span.fail(f"HTTP {message['status']}")
                await send(message)

            await self._app(scope, receive, send_and_note)
