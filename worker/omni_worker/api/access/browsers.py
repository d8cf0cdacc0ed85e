"""Which web pages may reach a head that listens on loopback only, as ASGI middleware.

Every page in a browser on the same machine can send requests to it. Two checks leave out those of other sites: a Host
that is a public name belongs to a page that had its name point here (DNS rebinding), and an Origin that is not the
Host's belongs to a page of another site.
"""

import ipaddress
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from omni_worker.api.errors import error_response
from omni_worker.telemetry.metrics import AccessMetrics

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
"""Methods that change nothing. What they return, browsers hide from pages of other origins."""
REMEDY = "--cors-origin lets the pages of a site call this server, with Content-Type: application/json"


class LocalPagesOnly:
    """Answers 403 to requests with the Host of a public name, and to requests from pages of other origins.

    hosts: names that are allowed besides, without a port
    origins: the origins that CORS allows
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], origins: Collection[str], metrics: AccessMetrics) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._origins = frozenset(origins)
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reason = self._refusal(scope) if scope["type"] == "http" else None
        if reason is None:
            await self._app(scope, receive, send)
            return
        name, message = reason
        self._metrics.refused(name)
        await error_response(403, message, code=f"{name}_not_allowed")(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[str, str] | None:
        """The header that is not allowed, and a message; None if both are."""
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if not is_local_name(host) and host_name(host) not in self._hosts:
            return "host", f"Host: {host_name(host)!r} is not a name of this machine: --allowed-host allows it"
        if scope["method"] in SAFE_METHODS or "*" in self._origins or origin in self._origins:
            return None
        own = (f"http://{host}".lower(), f"https://{host}".lower())
        if origin is not None and origin.lower() not in own:
            return "origin", f"Origin: {origin!r} is another site's; {REMEDY}"
        if origin is None and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return "origin", f"a page of another site sent this; {REMEDY}"
        return None


def host_name(host: str) -> str:
    """The name or address in a Host header, in lower case, without its port and a dot at its end."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].removesuffix(".").lower()


def is_local_name(host: str) -> bool:
    """Whether a Host header is an address, or a name without a dot or below `localhost`, which no stranger owns."""
    name = host_name(host)
    if "." not in name and ":" not in name:
        return True
    if name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
