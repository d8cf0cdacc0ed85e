"""The probes that every process answers: /livez, /startupz, /readyz, /metrics.

That a probe is answered at all proves that the event loop turns. 200 or 503, with the reason in the body.
"""

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

Check = Callable[[], str | None]


@dataclass(frozen=True)
class Probes:
    """Each check returns None where all is well, and the reason where not."""

    started: Check
    ready: Check
    alive: Check = lambda: None

    def routes(self, registry: CollectorRegistry) -> list[Route]:
        """The four routes."""

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
