"""The address of a pipeline's API, and the flags that select the pipeline."""

import os
import ssl
from dataclasses import dataclass
from typing import Any

import httpx

from omni_operator.kube.proxies import environment_proxy

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

    `description` names it in messages. `verify`, `headers` and `proxy` are what httpx needs to reach it.
    `unauthorized_hint` says what to do if the API rejects the key (HTTP 401).
    """

    url: str
    description: str
    verify: ssl.SSLContext | bool
    headers: dict[str, str]
    proxy: str | None
    unauthorized_hint: str = "set OMNI_API_KEY to one of its keys"

    @property
    def connection(self) -> dict[str, Any]:
        """The arguments of httpx's clients that lead to this API. The environment adds nothing to them."""
        return {
            "base_url": self.url,
            "verify": self.verify,
            "headers": self.headers,
            "proxy": self.proxy,
            "trust_env": False,
        }

    def client(self) -> httpx.Client:
        """A client with a timeout for connecting, but none for responses: a generation can take minutes."""
        return httpx.Client(timeout=httpx.Timeout(None, connect=CONNECT_SECONDS), **self.connection)


def endpoint_at(url: str, description: str) -> Endpoint:
    """The API at an address, reached with the key, the certificates and the proxy that the environment names."""
    url = url.rstrip("/")
    # Loading certificates takes 40 ms.
    verify = httpx.create_ssl_context() if url.startswith("https://") else False
    return Endpoint(url, description, verify, api_key_header(), environment_proxy(url))


def api_key_header() -> dict[str, str]:
    """The Authorization header with the key in OMNI_API_KEY; empty if that is not set."""
    api_key = os.environ.get("OMNI_API_KEY")
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}
