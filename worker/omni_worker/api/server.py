"""Runs an ASGI application inside an event loop that is not its own, over TLS where it is given a certificate, and
drains it."""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

from omni_worker.config.api import Certificate
from omni_worker.errors import CommandError

log = logging.getLogger(__name__)
CERTIFICATE_SECONDS = 5.0
"""How often the certificate's files are looked at."""


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: the process drains in its own order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """`bind` first, so that a busy port is known before anything is started; then `run` until `drain`."""

    def __init__(
        self, app: Any, host: str, port: int, drain_timeout: float, certificate: Certificate | None = None
    ) -> None:
        if certificate:
            load(certificate, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        self._certificate = certificate
        self._socket = bind(host, port)
        self._config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=int(drain_timeout),
            ssl_certfile=certificate.chain if certificate else None,
            ssl_keyfile=certificate.key if certificate else None,
        )
        self._config.load()
        self._state = state(certificate) if certificate else None
        self._server = _Server(self._config)

    async def run(self) -> None:
        """Serve until drained."""
        following = asyncio.create_task(self._follow(self._certificate)) if self._certificate else None
        try:
            await self._server.serve(sockets=[self._socket])
        finally:
            if following:
                following.cancel()

    async def _follow(self, certificate: Certificate) -> None:
        """Use a certificate that takes the place of the first one, for connections that begin from then on."""
        while True:
            await asyncio.sleep(CERTIFICATE_SECONDS)
            now = state(certificate)
            if now in (None, self._state) or self._config.ssl is None:
                continue
            self._state = now
            try:
                # First where nobody is served with half of it.
                load(certificate, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
                load(certificate, self._config.ssl)
            except CommandError as error:
                log.warning("the certificate as it was before is still in use: %s", error)
            else:
                log.info("the certificate of %s has changed and is in use", certificate.chain)

    def drain(self) -> None:
        """Accept nothing new; `run` returns when the requests that run have been answered."""
        self._server.should_exit = True


def load(certificate: Certificate, context: ssl.SSLContext) -> None:
    """Have a context prove itself by a certificate. Raises CommandError, naming the flag."""
    try:
        context.load_cert_chain(certificate.chain, certificate.key)
    except (OSError, ssl.SSLError) as error:
        key = f" --ssl-keyfile {certificate.key}" if certificate.key else ""
        what = error.strerror if isinstance(error, FileNotFoundError) else error
        raise CommandError(
            f"--ssl-certfile {certificate.chain}{key}: {what}; expected a certificate and its private key, in PEM"
        ) from error


def state(certificate: Certificate) -> tuple[tuple[int, int, int], ...] | None:
    """What changes with the files; None while one of them is not there."""
    try:
        found = [Path(file).stat() for file in (certificate.chain, certificate.key) if file]
    except OSError:
        return None
    return tuple((one.st_ino, one.st_mtime_ns, one.st_size) for one in found)


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
