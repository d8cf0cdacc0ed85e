"""How to reach a Service from outside the cluster: the API server forwards requests to it."""

import ssl
from collections.abc import Mapping
from typing import NamedTuple


class ServiceProxy(NamedTuple):
    """The URL under which the API server forwards to a Service, and what an HTTP client needs to reach it.

    `proxy` is the URL of the HTTP proxy on the way to the API server.
    """

    url: str
    context: ssl.SSLContext
    headers: Mapping[str, str]
    proxy: str | None


def proxy_path(namespace: str, service: str, port: str, scheme: str) -> str:
    """The path that forwards to a Service. The API server does not verify the Service's certificate."""
    target = f"https:{service}" if scheme == "https" else service
    return f"/api/v1/namespaces/{namespace}/services/{target}:{port}/proxy"
