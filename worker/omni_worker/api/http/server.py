"""An HTTP server that runs in the caller's event loop, over TLS if it has a certificate, and drains on request.

Heads and headless processes use it, so the limits of `connection` hold at every HTTP port.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

from omni_worker.addresses import ALL, has_ipv6, plain_host, wildcard
from omni_worker.api.http.connection import KEEP_ALIVE_SECONDS, Connection
from omni_worker.config.api import Certificate
from omni_worker.errors import CommandError

log = logging.getLogger(__name__)
CERTIFICATE_SECONDS = 5.0
"""How often the server checks whether the certificate's files have changed."""
BACKLOG = 2048
FileVersions = tuple[tuple[int, int, int], ...]


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process handles signals and drains its parts in its own order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """Serves an ASGI app. It binds its port when it is created, so that a busy port is reported before a start."""

    def __init__(
        self, app: Any, host: str, port: int, drain_timeout: float, certificate: Certificate | None = None
    ) -> None:
        """Raises CommandError if the port is busy or the certificate cannot be used."""
        if certificate:
            load_certificate(certificate, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        self._certificate = certificate
        self._socket = bind(host, port)
        self._config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            http=Connection,
            ws="none",
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=int(drain_timeout),
            ssl_certfile=certificate.chain if certificate else None,
            ssl_keyfile=certificate.key if certificate else None,
        )
        self._config.load()
        self._loaded = file_versions(certificate) if certificate else None
        self._server = _Server(self._config)

    async def run(self) -> None:
        """Serve until `drain`, and then until the running requests are answered."""
        reloading = asyncio.create_task(self._reload_changes(self._certificate)) if self._certificate else None
        try:
            await self._server.serve(sockets=[self._socket])
        finally:
            if reloading:
                reloading.cancel()

    async def _reload_changes(self, certificate: Certificate) -> None:
        """When the certificate's files change, load them for new connections."""
        while True:
            await asyncio.sleep(CERTIFICATE_SECONDS)
            versions = file_versions(certificate)
            if versions in (None, self._loaded) or self._config.ssl is None:
                continue
            self._loaded = versions
            try:
                # Try it on a context that serves nobody: a failure could leave the real one with half of it.
                load_certificate(certificate, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
                load_certificate(certificate, self._config.ssl)
            except CommandError as error:
                log.warning("the certificate as it was before is still in use: %s", error)
            else:
                log.info("the certificate of %s has changed and is in use", certificate.chain)

    def drain(self) -> None:
        """Accept no new requests; `run` returns when the running ones are answered."""
        self._server.should_exit = True


def load_certificate(certificate: Certificate, context: ssl.SSLContext) -> None:
    """Load the certificate and its key into `context`. Raises CommandError, naming the flag."""
    try:
        context.load_cert_chain(certificate.chain, certificate.key)
    except (OSError, ssl.SSLError) as error:
        key = f" --ssl-keyfile {certificate.key}" if certificate.key else ""
        reason = error.strerror if isinstance(error, FileNotFoundError) else error
        raise CommandError(
            f"--ssl-certfile {certificate.chain}{key}: {reason}; expected a certificate and its private key, in PEM"
        ) from error


def file_versions(certificate: Certificate) -> FileVersions | None:
    """Inode, modification time and size of the certificate's files; None if one of them does not exist."""
    try:
        found = [Path(file).stat() for file in (certificate.chain, certificate.key) if file]
    except OSError:
        return None
    return tuple((status.st_ino, status.st_mtime_ns, status.st_size) for status in found)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises CommandError, naming the port and what to do."""
    address = wildcard() if host == ALL else plain_host(host)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # asyncio turns off Nagle's algorithm only for sockets that name their protocol. With it, an answer sent in two
    # writes is delayed by 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        if address == "::" and has_ipv6():
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # and IPv4
        listener.bind((address, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise CommandError(
            f"the port {port} on {host} cannot be used: {error.strerror}; "
            "stop what listens there, or choose another (--port)"
        ) from error
    listener.setblocking(False)
    return listener
