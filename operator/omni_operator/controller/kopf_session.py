"""How kopf reaches the API server: the way that our own requests take, and past a version that has expired."""

from collections.abc import Awaitable, Callable

import aiohttp
import kopf

from omni_operator.kube.connection import REQUEST_SECONDS, Connection

Send = Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]
GONE = 410


def kopf_session(connection: Connection) -> kopf.AiohttpSession:
    """kopf's credentials. It closes the session, and asks for another one after a 401. Needs a running event loop.

    The TLS settings are the connection's: kopf's own would lack the name that a kubeconfig gives the server.
    """
    return kopf.AiohttpSession(
        server=connection.url,
        aiohttp_session=aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=connection.tls_context()),
            headers=connection.credentials(),
            proxy=connection.proxy,
            middlewares=[from_now_on],
        ),
    )


async def from_now_on(request: aiohttp.ClientRequest, send: Send) -> aiohttp.ClientResponse:
    """Watch from now on where the version to watch from has expired. The server then begins with all objects.

    kopf lists again if it reads that in the stream of a watch. If it is the answer to the request, kopf would end the
    process.
    """
    response = await send(request)
    if response.status != GONE or "watch" not in request.url.query or "resourceVersion" not in request.url.query:
        return response
    response.release()
    url = request.url.without_query_params("resourceVersion")
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_SECONDS)
    return await request.session.get(url, headers=request.headers, timeout=timeout)
