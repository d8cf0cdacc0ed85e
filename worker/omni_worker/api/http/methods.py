"""One spelling of each request, as ASGI middleware: HEAD is like GET, and a trailing slash makes no difference."""

from starlette.types import ASGIApp, Receive, Scope, Send


class OneSpelling:
    """Routes see GET instead of HEAD, whose body the connection leaves out, and paths without a slash at the end.

    So no route must list HEAD, and none is redirected: a redirect names the scheme and host that the server sees, which
    behind a proxy are not those of the client.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"].rstrip("/") or "/"
            scope = {**scope, "method": "GET" if scope["method"] == "HEAD" else scope["method"], "path": path}
        await self._app(scope, receive, send)
