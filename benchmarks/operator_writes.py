"""What benchmarks/operator.py sees of the API server: when objects appear, and how much is written."""

import re
import threading
import time
from collections import Counter
from collections.abc import Iterable

from benchmarks.common import console
from benchmarks.operator_process import PATIENCE

from omni_operator.kube.client import Cluster
from omni_operator.kube.errors import ApiError, Unreachable
from omni_operator.kube.resources import CHILDREN, PODS, Resource
from omni_operator.planning.manifests.labels import PIPELINE

WRITES = ("POST", "PUT", "PATCH", "APPLY", "DELETE")
# Of other statuses, of pods and of most Events the controllers are the writers.
OURS = (
    "omnipipelines", "omnipipelines/status", "deployments", "services", "configmaps", "serviceaccounts",
    "networkpolicies", "poddisruptionbudgets", "persistentvolumeclaims", "secrets",
)  # fmt: skip
# What is written without anything that happens to a pipeline.
PASSING = ("leases", "events", "endpoints", "endpointslices")
QUIET_SECONDS = 10.0
SERIES = re.compile(r"^apiserver_request_total\{(.*)\} (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')


class Eye:
    """Sees when the Deployments and pods of pipelines appear, by a watch of its own."""

    def __init__(self, cluster: Cluster, selector: str) -> None:
        self._cluster, self._selector = cluster, selector
        self._seen: dict[tuple[str, str, str], float] = {}
        self._news = threading.Condition()
        self.is_closed = False
        for resource in (CHILDREN["Deployment"], PODS):
            _, version = next(cluster.pages(resource, None, selector))
            threading.Thread(target=self._follow, args=(resource, version), daemon=True).start()

    def _follow(self, resource: Resource, version: str) -> None:
        while True:
            try:
                for event in self._cluster.watch(resource, None, self._selector, version):
                    metadata = event["object"]["metadata"]
                    version = metadata["resourceVersion"]
                    if event["type"] == "ADDED":
                        key = resource.kind, metadata["labels"][PIPELINE], metadata["name"]
                        with self._news:
                            self._seen.setdefault(key, time.perf_counter())
                            self._news.notify_all()
            except (ApiError, Unreachable) as error:
                if self.is_closed:
                    return
                console.print(f"watch of {resource.plural}: {error}")
                time.sleep(1.0)

    def times(self, kind: str, pipeline: str) -> list[float]:
        with self._news:
            return [when for (what, whose, _), when in self._seen.items() if (what, whose) == (kind, pipeline)]

    def wait(self, kind: str, each: int, pipelines: Iterable[str]) -> dict[str, float]:
        """When each pipeline had `each` objects of a kind, once all have."""
        wanted = set(pipelines)
        deadline = time.monotonic() + PATIENCE
        while True:
            with self._news:
                found: dict[str, list[float]] = {name: [] for name in wanted}
                for (what, whose, _), when in self._seen.items():
                    if what == kind and whose in found:
                        found[whose].append(when)
                if all(len(times) >= each for times in found.values()):
                    return {name: max(times) for name, times in found.items()}
                if not self._news.wait(1.0) and time.monotonic() > deadline:
                    missing = sum(len(times) < each for times in found.values())
                    raise SystemExit(f"{missing} pipelines are without their {kind}s after {PATIENCE:g} s")
            time.sleep(0.05)  # looking is not to be the load


def written(cluster: Cluster) -> Counter[str]:
    """Writes by resource, and by `RESOURCE/SUBRESOURCE`, that the API server has answered so far."""
    found: Counter[str] = Counter()
    for labels, value in SERIES.findall(cluster.get_text("/metrics")):
        series = dict(LABEL.findall(labels))
        if series["verb"] in WRITES and not series.get("dry_run"):
            below = f"/{series['subresource']}" if series.get("subresource") else ""
            found[series["resource"] + below] += int(float(value))
    return found


def ours(before: Counter[str], after: Counter[str]) -> dict[str, int]:
    """What was written meanwhile of the kinds that are the operator's."""
    return {key: number for key, number in sorted((after - before).items()) if key in OURS}


def settle(cluster: Cluster) -> float:
    """Wait until nobody has written anything that lasts for a while; returns when the last write was."""
    began = last = time.perf_counter()
    before = written(cluster)
    while time.perf_counter() - last < QUIET_SECONDS:
        if last - began > PATIENCE:
            raise SystemExit(f"it was written on and on for {PATIENCE:g} s")
        time.sleep(0.5)
        now = written(cluster)
        if set(now - before) - set(PASSING):
            last, before = time.perf_counter(), now
    return last
