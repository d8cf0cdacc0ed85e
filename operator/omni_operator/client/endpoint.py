"""The address of a pipeline's API, and the flags that select the pipeline."""

import os
from dataclasses import dataclass, field
from typing import Any

import httpx

CONNECT_SECONDS = 10.0


class EndpointNotFound(Exception):
    """No API was found. The message says what to do."""

    exit_code = 1


@dataclass(frozen=True)
class PipelineSelector:
    """Selects a pipeline by its address, or by its name, namespace and kubeconfig context. All parts are optional."""

    url: str | None = None
    pipeline: str | None = None
    namespace: str | None = None
    context: str | None = None


@dataclass(frozen=True)
class Endpoint:
    """The API of one pipeline.

    `description` names it in messages. `verify` and `headers` are what httpx needs to reach it.
    `unauthorized_hint` says what to do if the API rejects the key (HTTP 401).
    """

    url: str
    description: str
    verify: Any = True
    headers: dict[str, str] = field(default_factory=dict)
    unauthorized_hint: str = "set OMNI_API_KEY to one of its keys"

    def client(self) -> httpx.Client:
        """A client with a timeout for connecting, but none for responses: a generation can take minutes."""
        timeout = httpx.Timeout(None, connect=CONNECT_SECONDS)
        return httpx.Client(base_url=self.url, verify=self.verify, headers=self.headers, timeout=timeout)


def api_key_header() -> dict[str, str]:
    """The Authorization header with the key in OMNI_API_KEY; empty if that is not set."""
    api_key = os.environ.get("OMNI_API_KEY")
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}
