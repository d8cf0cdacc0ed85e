"""The key file of a head, read again when it changes, and the middleware that asks for a key."""

import logging
import time
from pathlib import Path

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from omni_worker.api.access.clients import Client, Rate, hash_key, parse_clients
from omni_worker.api.errors import error_response
from omni_worker.config.watched_file import FileVersion, version_of
from omni_worker.errors import UsageError
from omni_worker.telemetry.metrics import AccessMetrics
from omni_worker.transport.keys import warn_if_all_may_read

log = logging.getLogger(__name__)
FLAG = "--api-key-file"
PROTECTED_PREFIXES = ("/v1/", "/omni/")
"""Paths that need an API key, if the server has keys."""
PUBLIC_PATHS = ("/v1/omni/topology",)
"""Exceptions. The operator reads the topology without a key, and the metrics contain the same."""
LOG_SECONDS = 10.0
"""Rejected keys are logged at most so often, with their number."""


class ApiKeys:
    """The clients that the key file names. It is read again when it changes."""

    def __init__(self, file: str) -> None:
        """Raises UsageError if the file cannot be read, has no key, or has a line that is not valid."""
        self._file = Path(file)
        self._clients: dict[bytes, Client] = {}
        self._rates: dict[Client, Rate] = {}
        self._version: FileVersion | None = None
        if problem := self._read():
            raise UsageError(f"{FLAG} {self._file}: {problem}")
        warn_if_all_may_read(FLAG, file)

    def client_of(self, key: str) -> Client | None:
        """The client with this key; None if it is no key now.

        Nobody has a valid key while the file is missing, empty or unreadable: keys that were taken away stay away. Keys
        are found by their hash, so the time that it takes reveals nothing about them.
        """
        if problem := self._read():
            log.error("%s %s: %s", FLAG, self._file, problem)
        return self._clients.get(hash_key(key))

    def seconds_until_next(self, client: Client) -> float:
        """Count a request of a client: 0 if it may run now, else the seconds until its rate allows one."""
        if client.requests_per_minute is None:
            return 0.0
        return self._rates.setdefault(client, Rate(client.requests_per_minute)).seconds_until_next()

    def _read(self) -> str | None:
        """Read the file if it has changed since the last time. Returns what is wrong with it."""
        try:
            version = version_of(self._file.stat())
            if version == self._version:
                return None
            clients, errors = parse_clients(self._file.read_text())
        except (OSError, UnicodeDecodeError) as error:
            is_new, self._version, self._clients = self._version != (0, 0, 0, 0), (0, 0, 0, 0), {}
            reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
            return f"{reason}; no key is valid now" if is_new else None
        self._version, self._clients = version, clients
        self._rates = {client: rate for client, rate in self._rates.items() if client in clients.values()}
        if not clients:
            errors.append(f"holds no key: openssl rand -hex 32 >> {self._file}")
        return "; ".join(errors) or None


class RequireApiKey:
    """Answers 401 to requests without a valid key, and 429 to those beyond a client's rate, except on public paths.

    The client is in the request's state, as `client`.
    """

    def __init__(self, app: ASGIApp, keys: ApiKeys, metrics: AccessMetrics) -> None:
        self._app = app
        self._keys = keys
        self._metrics = metrics
        self._rejections = _RejectionLog()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_http = scope["type"] == "http"
        if not is_http or scope["path"] in PUBLIC_PATHS or not scope["path"].startswith(PROTECTED_PREFIXES):
            await self._app(scope, receive, send)
            return
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        client = self._keys.client_of(key.strip()) if scheme.lower() == "bearer" else None
        if client is None:
            self._metrics.refused("unknown_key" if key else "missing_key")
            self._rejections.add(scope, "unknown" if key else "missing")
            if key:
                message, code = "Incorrect API key provided: it is none of this server's keys.", "invalid_api_key"
            else:
                message, code = "No API key provided: send one as Authorization: Bearer KEY.", "missing_api_key"
            response = error_response(401, message, code=code, headers={"WWW-Authenticate": "Bearer"})
        elif scope["method"] == "POST" and (seconds := self._keys.seconds_until_next(client)):
            self._metrics.refused("rate")
            message = f"this key may send {client.requests_per_minute} requests a minute: try again later"
            response = error_response(429, message, code="rate_limit_exceeded", retry_after=seconds)
        else:
            scope.setdefault("state", {})["client"] = client
            await self._app(scope, receive, send)
            return
        await response(scope, receive, send)


def sender(request: Request) -> Client | None:
    """The client whose key came with a request; None where the server has no keys."""
    client: Client | None = getattr(request.state, "client", None)
    return client


class _RejectionLog:
    """Logs rejected keys, in one line for all of LOG_SECONDS."""

    def __init__(self) -> None:
        self._logged_at = -LOG_SECONDS
        self._since = 0

    def add(self, scope: Scope, what: str) -> None:
        self._since += 1
        now = time.monotonic()
        if now - self._logged_at >= LOG_SECONDS:
            peer = scope["client"][0] if scope.get("client") else "a client"
            log.warning("401: %s API key, from %s; %d since the last such line", what, peer, self._since)
            self._logged_at, self._since = now, 0
