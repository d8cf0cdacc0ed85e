"""The probes of every process: /livez, /startupz, /readyz; and /metrics.

A probe answers 200, or 503 with the reason in its body. An answer at all proves that the event loop runs.
"""

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

Check = Callable[[], str | None]
"""Returns None if all is well, and otherwise the reason why not."""


@dataclass(frozen=True)
class Probes:
    """The checks of one process."""

    started: Check
    ready: Check
    alive: Check = lambda: None

    def routes(self, registry: CollectorRegistry) -> list[Route]:
        """The routes of the probes and of the metrics in `registry`."""

        async def metrics(request: Request) -> Response:
            return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

        return [
            Route("/livez", _endpoint(self.alive)),
            Route("/startupz", _endpoint(self.started)),
            Route("/readyz", _endpoint(self.ready)),
            Route("/metrics", metrics),
        ]


def _endpoint(check: Check):  # type: ignore[no-untyped-def]  # a Starlette endpoint
    async def probe(request: Request) -> JSONResponse:
        reason = check()
        if reason is None:
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "unavailable", "reason": reason}, status_code=503)

    return probe
