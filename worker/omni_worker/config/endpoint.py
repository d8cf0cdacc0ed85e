"""The server outside the pipeline that a stage of the engine `openai` asks: its address, model, key and limits."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec

from omni_worker.addresses import is_loopback
from omni_worker.errors import UsageError

ENGINE = "openai"
"""The engine of a stage that is a server outside the pipeline."""


@dataclass(frozen=True)
class Endpoint:
    """A server that speaks OpenAI's API.

    url: the base URL of its API, to which `/chat/completions` is added
    model: what the model is called there
    api_key_file: the file with the key that it asks for, read at each call, so that a new key needs no restart
    timeout_seconds: longest time of one answer, with all its retries
    retries: further calls after one that failed before any text was streamed
    """

    url: str
    model: str
    api_key_file: str | None = None
    timeout_seconds: float = 300.0
    retries: int = 2

    @property
    def host(self) -> str:
        """The host and port of its URL."""
        return urlsplit(self.url).netloc

    @property
    def is_local(self) -> bool:
        """Whether it runs on this machine."""
        return is_loopback(urlsplit(self.url).hostname or "")

    def api_key(self) -> str | None:
        """The key that it asks for; None if it asks for none. Raises ValueError, with what is wrong with the file."""
        if self.api_key_file is None:
            return None
        try:
            key = Path(self.api_key_file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise ValueError(f"its key cannot be read from {self.api_key_file}: {reason}") from None
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError(f"{self.api_key_file} must hold its key: one line without spaces")
        return key


FIELDS = ", ".join(Endpoint.__dataclass_fields__)


def from_fields(fields: Any) -> Endpoint:
    """An endpoint from the fields of a stage's `endpoint`. Raises UsageError, naming the field."""
    try:
        if isinstance(fields, dict) and (unknown := fields.keys() - Endpoint.__dataclass_fields__.keys()):
            raise UsageError(f"endpoint: has no field {', '.join(sorted(map(str, unknown)))}; it has {FIELDS}")
        endpoint = msgspec.convert(fields, Endpoint)
    except msgspec.ValidationError as error:
        raise UsageError(f"endpoint: {error}") from None
    if not endpoint.model:
        raise UsageError("endpoint.model: is empty; give the name of the model at the server")
    if not 0 < endpoint.timeout_seconds <= 86_400:
        raise UsageError(f"endpoint.timeout_seconds: is {endpoint.timeout_seconds:g}; give 1 to 86400")
    if not 0 <= endpoint.retries <= 10:
        raise UsageError(f"endpoint.retries: is {endpoint.retries}; give 0 to 10")
    _check_url(endpoint.url)
    return endpoint


def _check_url(url: str) -> None:
    """Raises UsageError unless it is the base URL of an API."""
    try:
        parts = urlsplit(url)
        is_complete = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        parts, is_complete = SplitResult("", "", "", "", ""), False
    if not is_complete or parts.query or parts.fragment or not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError(f"endpoint.url: {url!r} is no base URL of an API; give one like http://vllm:8000/v1")
    if parts.username is not None or parts.password is not None:
        raise UsageError("endpoint.url: has a user or password in it; give the key in a file, as api_key_file")
