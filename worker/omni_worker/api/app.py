"""The head's HTTP application, put together from its routes."""

import secrets
import time
from collections.abc import Sequence
from importlib.metadata import version

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omni_worker.api.chat import chat_routes
from omni_worker.api.errors import install_error_handlers
from omni_worker.api.images import image_routes
from omni_worker.api.models import model_routes
from omni_worker.api.state import state_routes
from omni_worker.api.topology import topology_routes
from omni_worker.orchestrator.orchestrator import Orchestrator

MAX_REQUEST_ID = 128


class RequestIds:
    """Gives every request an id, the client's own `X-Request-Id` where it sends a sound one, and returns it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope).get("x-request-id", "")
        sound = 0 < len(asked) <= MAX_REQUEST_ID and asked.isascii() and asked.isprintable()
        id = asked if sound else f"req-{secrets.token_hex(8)}"
        scope.setdefault("state", {})["request_id"] = id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-Id"] = id
            await send(message)

        await self._app(scope, receive, send_with_id)


def create_app(orchestrator: Orchestrator, model: str, probes: Sequence[Route]) -> FastAPI:
    """The application that serves `model`, by its served name."""
    app = FastAPI(title="OmniPipeline", version=version("omnipipeline"))
    install_error_handlers(app)
    app.add_middleware(RequestIds)
    app.router.routes.extend(probes)
    app.include_router(image_routes(orchestrator, model))
    app.include_router(chat_routes(orchestrator, model))
    app.include_router(model_routes(model, created=int(time.time())))
    app.include_router(state_routes(orchestrator))
    app.include_router(topology_routes(orchestrator, model))
    return app
