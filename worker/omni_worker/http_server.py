"""Runs an ASGI application inside an event loop that is not its own, and drains it."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn

from omni_worker.errors import CommandError


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: the process drains in its own order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """`bind` first, so that a busy port is known before anything is started; then `run` until `drain`."""

    def __init__(self, app: Any, host: str, port: int, drain_timeout: float) -> None:
        self._socket = bind(host, port)
        self._server = _Server(
            uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=int(drain_timeout))
        )

    async def run(self) -> None:
        """Serve until drained."""
        await self._server.serve(sockets=[self._socket])

    def drain(self) -> None:
        """Accept nothing new; `run` returns when the requests that run have been answered."""
        self._server.should_exit = True


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises CommandError, naming the port and the remedy."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named, for asyncio looks at it, and else leaves answers of two writes waiting for 40 ms (Nagle).
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
        made.listen(2048)
    except OSError as error:
        made.close()
        raise CommandError(
            f"the port {port} on {host} cannot be used: {error.strerror}; "
            "stop what listens there, or choose another (--port)"
        ) from error
    made.setblocking(False)
    return made


async def until(event: asyncio.Event, *tasks: "asyncio.Task[Any]") -> None:
    """Wait for `event`, or for the first of `tasks` to end; raises what that task raised."""
    waiter = asyncio.ensure_future(event.wait())
    done, _ = await asyncio.wait({waiter, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    for task in done - {waiter}:
        task.result()
