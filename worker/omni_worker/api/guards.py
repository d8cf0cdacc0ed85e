"""What every request passes before its route: it gets an id, shows its key, and is not too long. ASGI all of it."""

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
MAX_REQUEST_ID = 128
GUARDED = ("/v1/", "/omni/")
FREE = ("/v1/omni/topology",)  # what autoscaling goes by, which the metrics tell too; an operator has no key to show


class RequestIds:
    """Gives every request an id, the client's own `X-Request-Id` where it sends a sound one, and returns it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope).get("x-request-id", "")
        sound = 0 < len(asked) <= MAX_REQUEST_ID and asked.isascii() and asked.isprintable()
        id = asked if sound else f"req-{secrets.token_hex(8)}"
        scope.setdefault("state", {})["request_id"] = id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-Id"] = id
            await send(message)

        await self._app(scope, receive, send_with_id)


class BodyLimit:
    """Answers 413 to bodies of too many bytes: at once where the length is told, else when it is passed."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = Headers(scope=scope).get("content-length", "")
        if told.isdecimal() and int(told) > self._most:
            response = error_response(413, self._reason, code="body_too_large", headers={"Connection": "close"})
            await response(scope, receive, send)
            return
        passed = 0

        async def counted() -> Message:
            nonlocal passed
            message = await receive()
            passed += len(message.get("body", b""))
            if passed > self._most:
                raise HTTPException(413, self._reason, {"Connection": "close"})
            return message

        await self._app(scope, counted, send)

    @property
    def _reason(self) -> str:
        return f"the body is longer than the {self._most} bytes allowed here: send smaller pictures, or fewer"


class ApiKeys:
    """The keys that clients may come with, one a line of a file, which is read again when it changes.

    They are compared by their hashes and all of them every time, so that how long it takes tells nothing of them.
    """

    def __init__(self, file: str) -> None:
        self._file = Path(file)
        self._read_at: tuple[int, int] | None = None
        self._hashes: list[bytes] = []
        self._read()

    def know(self, key: str) -> bool:
        """Whether a client may come in by it."""
        try:
            self._read()
        except UsageError as error:
            log.warning("the keys as they were before are still in force: %s", error)
        shown = _hash(key)
        return bool(sum([hmac.compare_digest(shown, known) for known in self._hashes]))

    def _read(self) -> None:
        try:
            state = self._file.stat()
            at = state.st_mtime_ns, state.st_size
            if at == self._read_at:
                return
            lines = self._file.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--api-key-file {self._file}: {error}") from error
        keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not keys:
            raise UsageError(f"--api-key-file {self._file}: holds no key: openssl rand -hex 32 >> {self._file}")
        self._hashes, self._read_at = [_hash(key) for key in keys], at


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


class Locked:
    """Answers 401 to who comes without a key, but for what tells how the pipeline is, and the API's description."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in FREE or not scope["path"].startswith(GUARDED):
            await self._app(scope, receive, send)
            return
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._keys.know(key.strip()):
            await self._app(scope, receive, send)
            return
        if key:
            message, code = "Incorrect API key provided: it is none of this server's keys.", "invalid_api_key"
        else:
            message, code = "No API key provided: send one as Authorization: Bearer KEY.", "missing_api_key"
        response = error_response(401, message, code=code, headers={"WWW-Authenticate": "Bearer"})
        await response(scope, receive, send)
