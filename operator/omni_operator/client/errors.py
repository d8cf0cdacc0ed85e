"""What an API answers when it does not give what was asked for, as one error with a message for people."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from omni_operator.client.endpoint import Endpoint

OF_ANOTHER_KIND = ("modalities", "model")  # what an error is about where the pipeline gives something else


class GenerationFailed(Exception):
    """The pipeline answered with an error, or not at all."""

    exit_code = 1


class NotAPipeline(GenerationFailed):
    """Something else answers at the address."""

    def __init__(self, where: Endpoint) -> None:
        super().__init__(f"{where.url} does not answer like a pipeline; is the address right?")


@contextmanager
def connection(where: Endpoint) -> Iterator[None]:
    """Tells a connection that cannot be made, or breaks, as GenerationFailed."""
    try:
        yield
    except httpx.ConnectError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            remedy = "set SSL_CERT_FILE to a file with the certificate of its authority"
            raise GenerationFailed(f"the certificate of {where.url} is not trusted ({error}); {remedy}") from None
        raise GenerationFailed(f"nothing answers at {where.url}; is the pipeline running?") from None
    except httpx.HTTPError as error:
        raise GenerationFailed(f"the connection to {where.description} broke: {error}") from None


def require_success(where: Endpoint, response: httpx.Response, remedies: Mapping[str, str] | None = None) -> None:
    """Raise GenerationFailed, with the server's own words, for any status but 200. The body must have been read.

    `remedies` are what to do, by what an error is about.
    """
    if response.status_code != 200:
        said, param = message(response)
        if response.status_code == 401:
            said = f"{said.rstrip('.')}; {where.without_key}"
        elif remedy := (remedies or {}).get(param or ""):
            said = f"{said}; {remedy}"
        raise GenerationFailed(f"{where.description} answers {response.status_code}: {said}")


def message(response: httpx.Response) -> tuple[str, str | None]:
    """The error of a response, and what it is about: OpenAI's form, the API server's, or the text itself."""
    try:
        content: dict[str, Any] = response.json()
        error = content.get("error") or content
        return str(error["message"]), error.get("param")
    except (ValueError, KeyError, TypeError, AttributeError):
        return response.text.strip()[:300] or response.reason_phrase, None
