"""Failed requests to a pipeline's API, as exceptions with a message for people."""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx

from omni_operator.client.endpoint import Endpoint
from omni_operator.client.plain_text import plain_text

MAX_MESSAGE_LENGTH = 300
# The API names one of these parameters in its error if the pipeline generates another kind of output.
WRONG_OUTPUT_PARAMS = ("modalities", "model")


class RequestFailed(Exception):
    """The API returned an error, or did not respond. Its message, which may be the server's, is plain text."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(plain_text(message))


class NotAPipeline(RequestFailed):
    """The server at the address is not the API of a pipeline."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(f"{endpoint.url} does not answer like a pipeline; is the address right?")


@contextmanager
def connection_errors(endpoint: Endpoint) -> Iterator[None]:
    """Turns httpx errors into RequestFailed: connections that cannot be opened, and those that break."""
    try:
        yield
    except httpx.ConnectError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            remedy = "set SSL_CERT_FILE to a file with the certificate of its authority"
            raise RequestFailed(f"the certificate of {endpoint.url} is not trusted ({error}); {remedy}") from None
        if endpoint.proxy:
            proxy = urlsplit(endpoint.proxy).netloc.rpartition("@")[2]  # without a password
            message = f"the proxy {proxy} does not lead to {endpoint.url} ({error})"
            raise RequestFailed(f"{message}; correct it, or list the host in NO_PROXY") from None
        if is_unknown_host(error):
            host = urlsplit(endpoint.url).hostname
            raise RequestFailed(f"the host {host} of {endpoint.url} cannot be resolved; is its name right?") from None
        raise RequestFailed(f"nothing answers at {endpoint.url}; is the pipeline running?") from None
    except httpx.HTTPError as error:
        raise RequestFailed(f"the connection to {endpoint.description} broke: {error}") from None


def is_unknown_host(error: BaseException | None) -> bool:
    """Whether a connection failed because no address is known for the host's name."""
    while error is not None and not isinstance(error, socket.gaierror):
        error = error.__cause__ or error.__context__
    return error is not None


def require_success(endpoint: Endpoint, response: httpx.Response, remedies: Mapping[str, str] | None = None) -> None:
    """Raise RequestFailed with the server's message unless the status is 200. The body must have been read.

    `remedies` maps the parameter that an error is about to what the user can do. It is added to the message.
    """
    if response.status_code != 200:
        message, param = error_message(response)
        if response.status_code == 401:
            message = f"{message.rstrip('.')}; {endpoint.unauthorized_hint}"
        elif remedy := (remedies or {}).get(param or ""):
            message = f"{message}; {remedy}"
        raise RequestFailed(f"{endpoint.description} answers {response.status_code}: {message}")


def error_message(response: httpx.Response) -> tuple[str, str | None]:
    """The message of an error response, and the parameter that it is about.

    Reads errors in OpenAI's form and in the API server's form. For anything else, the message is the text itself.
    """
    try:
        content: dict[str, Any] = response.json()
        error = content.get("error") or content
        return str(error["message"]), error.get("param")
    except (ValueError, KeyError, TypeError, AttributeError):
        return response.text.strip()[:MAX_MESSAGE_LENGTH] or response.reason_phrase, None
