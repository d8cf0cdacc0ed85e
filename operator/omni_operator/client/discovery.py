"""Finds the API of a pipeline: at a given address, in a running `omni up`, or in the current cluster."""

import os
from collections.abc import Callable

import httpx

from omni_operator.client import local_runs
from omni_operator.client.endpoint import Endpoint, EndpointNotFound, PipelineSelector, endpoint_at

LIVENESS_SECONDS = 5.0


def find_endpoint(selector: PipelineSelector, timeout: float, report_wait: Callable[[str], None]) -> Endpoint:
    """The API of the one selected pipeline. Raises EndpointNotFound.

    Waits up to `timeout` seconds for a pipeline in a cluster that is still starting, and passes the reasons to
    `report_wait`.
    """
    is_named = selector.pipeline or selector.namespace or selector.context
    url = selector.url or (None if is_named else os.environ.get("OMNI_URL"))
    if url:
        if not url.startswith(("http://", "https://")):
            raise EndpointNotFound(f"{url!r} is not an address; expected one like http://127.0.0.1:8000")
        return endpoint_at(url, url)
    if selector.namespace is None and selector.context is None:
        local = _find_on_this_machine(selector.pipeline)
        if local:
            return local
    # Imported here because the Kubernetes client takes long to import, and a local pipeline does not need it.
    from omni_operator.client import cluster_discovery

    return cluster_discovery.find_endpoint(selector, timeout, report_wait)


def _find_on_this_machine(pipeline: str | None) -> Endpoint | None:
    runs = [run for run in local_runs.live_runs() if pipeline in (None, run.pipeline) and _is_live(run.url)]
    if len(runs) > 1:
        choices = ", ".join(f"{run.pipeline} at {run.url}" for run in runs)
        raise EndpointNotFound(
            f"several pipelines run on this machine ({choices}); choose one by its name, or with --url"
        )
    if not runs:
        return None
    return endpoint_at(runs[0].url, f"{runs[0].pipeline} on this machine")


def _is_live(url: str) -> bool:
    """Whether a head responds. The system reuses process ids, so the file of a run alone does not prove it.

    It sends no secret and trusts no answer, so it checks no certificate: loading those to check takes 40 ms.
    """
    try:
        return httpx.get(f"{url}/livez", timeout=LIVENESS_SECONDS, trust_env=False, verify=False).status_code == 200
    except httpx.HTTPError:
        return False
