"""The HTTP endpoint /healthz, on which the kubelet probes the operator. It proves that the event loop runs.

kopf has one, but on one address: a pod that has IPv4 and IPv6 is probed on either.
"""

import socket
from collections.abc import Callable

from aiohttp import web

from omni_operator.controller.errors import Unhealthy


async def serve_probe(port: int, require_healthy: Callable[[], None]) -> web.AppRunner:
    """Serve at a port until the runner's `cleanup`. `require_healthy` raises Unhealthy."""

    async def health(request: web.Request) -> web.Response:
        try:
            require_healthy()
        except Unhealthy as error:
            return web.json_response({"operator": str(error)}, status=500)
        return web.json_response({"operator": "ok"})

    app = web.Application()
    app.router.add_get("/healthz", health)
    runner = web.AppRunner(app, handle_signals=False, access_log=None)
    await runner.setup()
    await web.SockSite(runner, listening_socket(port)).start()
    return runner


def listening_socket(port: int) -> socket.socket:
    """A socket on all addresses, of IPv6 and IPv4. Raises OSError."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))
