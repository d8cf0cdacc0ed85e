"""ASGI middleware that gives every request an id."""

import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_REQUEST_ID_LENGTH = 128


class RequestIds:
    """Gives every request an id of our own, `state.request_id`, and `X-Request-Id` to its response.

    A client's own `X-Request-Id`, if it is valid, becomes `state.client_id`. It is echoed and logged, and nothing else:
    proxies send the same one with several requests.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = Headers(scope=scope).get("x-request-id", "")
        is_valid = 0 < len(sent) <= MAX_REQUEST_ID_LENGTH and sent.isascii() and sent.isprintable()
        id, client_id = f"req-{secrets.token_hex(8)}", sent if is_valid else None
        scope.setdefault("state", {}).update(request_id=id, client_id=client_id)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-Id"] = client_id or id
            await send(message)

        await self._app(scope, receive, send_with_id)
