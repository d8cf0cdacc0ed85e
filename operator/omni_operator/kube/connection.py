"""Sends HTTP requests to one API server, and retries those that are safe and worth it. It knows no kinds and no verbs.

TLS, credentials and connections come from the official client, which is imported late because it takes most of the
process's memory. Every call blocks.
"""

import json
import logging
import random
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from omni_operator.kube.errors import ApiError, Unreachable, error_from_response

REQUEST_SECONDS = 30.0
"""Timeout for connecting, and for each read of an answer."""
ATTEMPTS = 5
FIRST_DELAY_SECONDS = 0.1
MAX_DELAY_SECONDS = 5.0
"""The longest wait inside a call. If the server asks for more, the caller gets the error."""
MAX_LOGGED_WARNINGS = 1000
WARNING = re.compile(r'299 \S+ "((?:[^"\\]|\\.)*)"')
"""A warning of the API server in the header of that name: code, agent and quoted text."""

logger = logging.getLogger(__name__)


class Connection:
    """Requests to the API server of one `configuration` of the official client. Thread-safe.

    `on_call` is called with the method and the HTTP status after every request; the status is 0 without an answer.
    """

    def __init__(self, configuration: Any, connections: int) -> None:
        from kubernetes import client

        configuration.connection_pool_maxsize = connections
        self.on_call: Callable[[str, int], None] = lambda method, status: None
        self._configuration = configuration
        self._logged_warnings: set[str] = set()
        self._pool = client.ApiClient(configuration).rest_client.pool_manager

    @property
    def url(self) -> str:
        return str(self._configuration.host)

    def credentials(self) -> dict[str, str]:
        """The HTTP headers that authenticate a request."""
        return {setting["key"]: setting["value"] for setting in self._configuration.auth_settings().values()}

    def tls_context(self) -> ssl.SSLContext:
        """TLS settings for another HTTP client that talks to the same server."""
        configuration = self._configuration
        context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
        if not configuration.verify_ssl:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if configuration.cert_file:
            context.load_cert_chain(configuration.cert_file, configuration.key_file)
        return context

    def send_json(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        attempts: int = ATTEMPTS,
    ) -> Any:
        """Send a request and parse its answer. Retries if the server is busy or unreachable.

        A retry repeats a request whose answer was lost, so a call with more than one attempt must be idempotent.
        Raises ApiError, Unreachable.
        """
        for attempt in range(1, attempts + 1):
            try:
                response = self.send(method, path, query or {}, body, content_type)
                return json.loads(response.data)
            except (ApiError, Unreachable) as error:
                delay = retry_delay(error, attempt)
                if attempt == attempts or delay is None:
                    raise
                time.sleep(delay)

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
        url = f"{self.url}{path}" + (f"?{parameters}" if parameters else "")
        headers = {"Accept": "application/json, */*", "User-Agent": "omni-operator"}
        headers |= self.credentials()
        if body is not None:
            headers["Content-Type"] = content_type
        try:
            response = self._pool.request(
                method,
                url,
                body=None if body is None else json.dumps(body),
                headers=headers,
                timeout=timeout,
                retries=False,
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
                raise Unreachable(f"an answer of {self.url} broke off: {error}") from error
            raise error_from_response(response.status, response.reason, content, response.headers.get("Retry-After"))
        return response

    def _log_warnings(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        """Log what the server warns of, such as a deprecated version: each text once, because every pass repeats it."""
        for quoted in WARNING.findall(headers.get("Warning", "")):
            text = re.sub(r"\\(.)", r"\1", quoted)
            if text not in self._logged_warnings and len(self._logged_warnings) < MAX_LOGGED_WARNINGS:
                self._logged_warnings.add(text)
                logger.warning("the API server warns of %s %s: %s", method, path, text)


def json_lines(path: str, response: Any) -> Iterator[Any]:
    """The lines of a streamed answer, parsed as JSON. Raises Unreachable if the connection breaks."""
    from urllib3.exceptions import HTTPError

    rest = b""
    try:
        for chunk in response.stream(amt=None, decode_content=True):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (json.loads(line) for line in lines if line.strip())
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
