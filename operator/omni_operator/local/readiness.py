"""Asks a local process how far it has started, through the same probes that a cluster uses."""

from typing import NamedTuple

import httpx

from omni_operator.client.plain_text import plain_text
from omni_operator.planning.topology.records import LOOPBACK


class Readiness(NamedTuple):
    """A process's own description of its state, and whether it is ready."""

    state: str
    is_ready: bool


def check_readiness(client: httpx.Client, http_port: int) -> Readiness:
    """Call the startup and the readiness probe of the process that serves this port."""
    url = f"http://{LOOPBACK}:{http_port}"
    try:
        startup = client.get(f"{url}/startupz")
        if startup.status_code != 200:
            return Readiness(_reason(startup, default="loading"), False)
        ready = client.get(f"{url}/readyz")
        return Readiness("ready", True) if ready.status_code == 200 else Readiness(_reason(ready, "started"), False)
    except httpx.TransportError:
        return Readiness("starting", False)


def _reason(response: httpx.Response, default: str) -> str:
    """The reason in the body of a failed probe, or `default` if it has none."""
    try:
        return plain_text(str(response.json()["reason"])) or default
    except (ValueError, KeyError, TypeError):
        return default
