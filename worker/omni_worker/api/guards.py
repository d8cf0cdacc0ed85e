"""ASGI middleware that every request passes before its route: request ids, API keys, and the limit of the body."""

import hashlib
import hmac
import logging
import secrets
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omni_worker.api.errors import error_response
from omni_worker.errors import UsageError

log = logging.getLogger(__name__)
MAX_REQUEST_ID_LENGTH = 128
PROTECTED_PREFIXES = ("/v1/", "/omni/")
"""Paths that need an API key, if the server has keys."""
PUBLIC_PATHS = ("/v1/omni/topology",)
"""Exceptions. The operator reads the topology without a key, and the metrics contain the same."""


class RequestIds:
    """Gives every request an id of our own, `state.request_id`, and `X-Request-Id` to its response.

    A client's own `X-Request-Id`, if it is valid, becomes `state.client_id`. It is echoed and logged, and nothing else:
    proxies send the same one with several requests.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = Headers(scope=scope).get("x-request-id", "")
        is_valid = 0 < len(sent) <= MAX_REQUEST_ID_LENGTH and sent.isascii() and sent.isprintable()
        id, client_id = f"req-{secrets.token_hex(8)}", sent if is_valid else None
        scope.setdefault("state", {}).update(request_id=id, client_id=client_id)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-Id"] = client_id or id
            await send(message)

        await self._app(scope, receive, send_with_id)


class BodyLimit:
    """Answers 413 to longer bodies: at once if Content-Length says so, or as soon as more bytes arrive."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        content_length = Headers(scope=scope).get("content-length", "")
        if content_length.isdecimal() and int(content_length) > self._max_bytes:
            response = error_response(413, self._message, code="body_too_large", headers={"Connection": "close"})
            await response(scope, receive, send)
            return
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise HTTPException(413, self._message, {"Connection": "close"})
            return message

        await self._app(scope, receive_within_limit, send)

    @property
    def _message(self) -> str:
        return f"the body is longer than the {self._max_bytes} bytes allowed here: send smaller pictures, or fewer"


class ApiKeys:
    """The keys that clients may use, from a file with one key per line. It is read again when it changes."""

    def __init__(self, file: str) -> None:
        """Raises UsageError if the file cannot be read or has no key."""
        self._file = Path(file)
        self._version: tuple[int, int] | None = None
        self._hashes: list[bytes] = []
        self._read()

    def accept(self, key: str) -> bool:
        """Whether `key` is one of the keys. If the file has become unreadable, the keys read before stay valid.

        Compares hashes, and always all of them, so that the time it takes reveals nothing about the keys.
        """
        try:
            self._read()
        except UsageError as error:
            log.warning("the keys as they were before are still in force: %s", error)
        hash = _hash(key)
        return bool(sum([hmac.compare_digest(hash, valid) for valid in self._hashes]))

    def _read(self) -> None:
        try:
            status = self._file.stat()
            version = status.st_mtime_ns, status.st_size
            if version == self._version:
                return
            lines = self._file.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--api-key-file {self._file}: {error}") from error
        keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not keys:
            raise UsageError(f"--api-key-file {self._file}: holds no key: openssl rand -hex 32 >> {self._file}")
        self._hashes, self._version = [_hash(key) for key in keys], version


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


class RequireApiKey:
    """Answers 401 to requests without a valid key, except on the public paths."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_http = scope["type"] == "http"
        if not is_http or scope["path"] in PUBLIC_PATHS or not scope["path"].startswith(PROTECTED_PREFIXES):
            await self._app(scope, receive, send)
            return
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._keys.accept(key.strip()):
            await self._app(scope, receive, send)
            return
        if key:
            message, code = "Incorrect API key provided: it is none of this server's keys.", "invalid_api_key"
        else:
            message, code = "No API key provided: send one as Authorization: Bearer KEY.", "missing_api_key"
        response = error_response(401, message, code=code, headers={"WWW-Authenticate": "Bearer"})
        await response(scope, receive, send)
