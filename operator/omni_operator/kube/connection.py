"""Sends HTTP requests to one API server, and retries those that are safe and worth it. It knows no kinds and no verbs.

TLS, credentials and connections come from the official client, which is imported late because it takes most of the
process's memory. Every call blocks.
"""

import logging
import random
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec

from omni_operator.kube.configuration import tls_context
from omni_operator.kube.errors import ApiError, Unreachable, error_from_response

REQUEST_SECONDS = 30.0
"""Timeout for connecting, and for each read of an answer."""
ATTEMPTS = 5
FIRST_DELAY_SECONDS = 0.1
MAX_DELAY_SECONDS = 5.0
"""The longest wait inside a call. If the server asks for more, the caller gets the error."""
MAX_LOGGED_WARNINGS = 1000
READ_BYTES = 64 * 1024
SHOWN_BYTES = 80
"""How much of an unexpected answer an error quotes."""
WARNING = re.compile(r'299 \S+ "((?:[^"\\]|\\.)*)"')
"""A warning of the API server in the header of that name: code, agent and quoted text."""

logger = logging.getLogger(__name__)


class Connection:
    """Requests to the API server of one `configuration` of the official client. Thread-safe.

    `on_call` is called with the method and the HTTP status after every request; the status is 0 without an answer.
    """

    def __init__(self, configuration: Any, connections: int) -> None:
        from urllib3 import ProxyManager

        from kubernetes import client

        configuration.connection_pool_maxsize = connections
        self.on_call: Callable[[str, int], None] = lambda method, status: None
        self._configuration = configuration
        self._logged_warnings: set[str] = set()
        manager = client.ApiClient(configuration).rest_client.pool_manager
        if isinstance(manager, ProxyManager) and configuration.host.startswith("http:"):
            self._pool, self._base = manager, configuration.host  # such a proxy is sent whole URLs
        else:
            self._pool, self._base = (
                manager.connection_from_url(configuration.host),
                urlsplit(configuration.host).path.rstrip("/"),
            )

    @property
    def url(self) -> str:
        return str(self._configuration.host)

    def credentials(self) -> dict[str, str]:
        """The HTTP headers that authenticate a request."""
        return {setting["key"]: setting["value"] for setting in self._configuration.auth_settings().values()}

    @property
    def proxy(self) -> str | None:
        """The URL of the HTTP proxy that all requests go through."""
        return self._configuration.proxy or None

    def tls_context(self) -> ssl.SSLContext:
        """TLS settings for another HTTP client that talks to the same server."""
        return tls_context(self._configuration)

    def send_json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        attempts: int = ATTEMPTS,
    ) -> dict[str, Any]:
        """Send a request and parse its answer, a JSON object. Retries if the server is busy or unreachable.

        A retry repeats a request whose answer was lost, so a call with more than one attempt must be idempotent.
        Raises ApiError; Unreachable, also if the answer is something else: a proxy or a load balancer sent it.
        """
        for attempt in range(1, attempts + 1):
            try:
                response = self.send(method, path, query or {}, body, content_type)
                return parse_object(response.data, f"{method} {path}")
            except (ApiError, Unreachable) as error:
                delay = retry_delay(error, attempt)
                if attempt == attempts or delay is None:
                    raise
                time.sleep(delay)
        raise AssertionError("the last attempt returns or raises")

    def send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "",
        timeout: float = REQUEST_SECONDS,
        stream: bool = False,
    ) -> Any:
        """Send one request, once. `stream`: the answer's body is read later, by the caller.

        Raises ApiError, Unreachable.
        """
        from urllib3.exceptions import HTTPError, TimeoutError

        parameters = urlencode({key: value for key, value in (query or {}).items() if value})
        url = f"{self._base}{path}" + (f"?{parameters}" if parameters else "")
        headers = {"Accept": "application/json, */*", "User-Agent": "omni-operator"}
        headers |= self.credentials()
        if body is not None:
            headers["Content-Type"] = content_type
        try:
            response = self._pool.urlopen(
                method,
                url,
                body=None if body is None else msgspec.json.encode(body),
                headers=headers,
                timeout=timeout,
                retries=False,
                redirect=False,
                preload_content=not stream,
            )
        except HTTPError as error:
            self.on_call(method, 0)
            message = f"the API server at {self.url} does not answer: {error}"
            raise Unreachable(message, isinstance(error, TimeoutError)) from error
        self.on_call(method, response.status)
        self._log_warnings(method, path, response.headers)
        if response.status >= 400:
            try:
                content = response.data
            except HTTPError as error:
                raise Unreachable(f"an answer of {self.url} ended early: {error}") from error
            raise error_from_response(
                response.status, response.reason or "", content, response.headers.get("Retry-After")
            )
        return response

    def get_bounded(self, path: str, seconds: float, max_bytes: int) -> bytes:
        """The body that the server answers a GET with, read within `seconds` and up to `max_bytes`, once.

        Raises ApiError, Unreachable.
        """
        from urllib3.exceptions import HTTPError

        deadline = time.monotonic() + seconds
        response = self.send("GET", path, timeout=seconds, stream=True)
        content = b""
        try:
            while chunk := response.read1(READ_BYTES, decode_content=False):
                content += chunk
                if len(content) > max_bytes:
                    raise Unreachable(f"the answer of {path} has more than {max_bytes} bytes")
                if time.monotonic() > deadline:
                    raise Unreachable(f"no complete answer of {path} within {seconds:g} s", is_timeout=True)
        except HTTPError as error:
            raise Unreachable(f"an answer of {self.url} ended early: {error}") from error
        finally:
            response.close()
        return content

    def _log_warnings(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        """Log what the server warns of, such as a deprecated version: each text once, because every pass repeats it."""
        for quoted in WARNING.findall(headers.get("Warning", "")):
            text = re.sub(r"\\(.)", r"\1", quoted)
            if text not in self._logged_warnings and len(self._logged_warnings) < MAX_LOGGED_WARNINGS:
                self._logged_warnings.add(text)
                logger.warning("the API server warns of %s %s: %s", method, path, text)


def parse_object(content: bytes, call: str) -> dict[str, Any]:
    """The JSON object that a call was answered with. Raises Unreachable if it is none, which no API server sends."""
    try:
        found = msgspec.json.decode(content)
    except (ValueError, RecursionError) as error:
        raise Unreachable(f"{call} was answered with something that is not JSON: {content[:SHOWN_BYTES]!r}") from error
    if not isinstance(found, dict):
        raise Unreachable(f"{call} was answered with JSON that is not an object: {content[:SHOWN_BYTES]!r}")
    return found


def json_lines(path: str, response: Any) -> Iterator[Any]:
    """The lines of a streamed answer, each a JSON object. Raises Unreachable if the connection breaks, or for another
    line."""
    from urllib3.exceptions import HTTPError

    rest = b""
    try:
        for chunk in response.stream(amt=None, decode_content=True):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (parse_object(line, f"the watch of {path}") for line in lines if line.strip())
        if rest.strip():  # every line of the API server ends with a newline
            raise Unreachable(
                f"the watch of {path} ended early, or was answered with no events: {rest[:SHOWN_BYTES]!r}"
            )
    except HTTPError as error:
        raise Unreachable(f"the watch of {path} broke: {error}") from error
    finally:
        response.release_conn()
        response.close()


def retry_delay(error: ApiError | Unreachable, attempt: int) -> float | None:
    """Seconds to wait before the next attempt; None if a retry cannot help, or the wait would be too long."""
    usual = FIRST_DELAY_SECONDS * 2.0 ** (attempt - 1) * random.uniform(0.8, 1.2)
    if isinstance(error, Unreachable):
        return None if error.is_timeout else usual
    if not error.is_transient or error.retry_after > MAX_DELAY_SECONDS:
        return None
    return max(usual, error.retry_after)
