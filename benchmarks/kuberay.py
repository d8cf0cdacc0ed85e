"""Our operator beside KubeRay's, on one API server: objects of a head and three workers, in fifty namespaces.

KubeRay's is the closest operator in shape, and written in Go. It is no part of this project: `--kuberay` names its
program, and `--definitions` the folder of its CRDs. Both operators run without leader election; KubeRay's with 16
workers and up to 1,000 requests a second, ours as it is. A control plane without nodes is started, so no pod is
scheduled. By turns, the order reversed each time:

- from the first creation to the last pod that exists;
- the operator's processor time, its memory, and what the API server answered meanwhile, less Events and Leases;
- then a minute of rest: writes, and the operator's processor time.

In each turn a bare client also applies the objects that ours makes of its pipelines, without a pipeline, a Secret and a
status: no operator that makes these objects can be faster.

    python -m benchmarks.kuberay --kuberay PROGRAM --definitions FOLDER [--objects 100] [--turns 2] [--output FILE]
"""

import argparse
import itertools
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.common import RESULTS, console, machine, write
from benchmarks.operator import HOMES, NAMESPACES, ROOT, WORKERS, bare_children, control_plane, for_each
from benchmarks.operator_process import PATIENCE, Process, wait_for
from benchmarks.operator_writes import LABEL, SERIES, WRITES

from omni_operator.kube.client import Cluster
from omni_operator.kube.resources import PIPELINES, PODS, Resource

CLUSTERS = Resource("RayCluster", "ray.io", "v1", "rayclusters")
CREATORS = 8
PODS_EACH = 4
START_SECONDS = 12.0
SETTLE_SECONDS = 30.0
REST_SECONDS = 60.0
# Fits nowhere, should there be a node.
NOWHERE = {"nodeSelector": {"nowhere": "true"}}


def pipeline(name: str, namespace: str) -> dict[str, Any]:
    template = {"spec": NOWHERE}
    return {
        "apiVersion": PIPELINES.api_version,
        "kind": PIPELINES.kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": {"source": "builtin://digits"},
            "replicas": 3,
            "image": {"name": "x:1"},
            "head": {"template": template},
            "stages": [{"name": "painter", "engine": "diffusion", "template": template}],
        },
    }


def ray_cluster(name: str, namespace: str) -> dict[str, Any]:
    def template(container: str) -> dict[str, Any]:
        limits = {"limits": {"cpu": "1", "memory": "1Gi"}}
        return {"spec": {**NOWHERE, "containers": [{"name": container, "image": "x:1", "resources": limits}]}}

    workers = {"groupName": "w", "replicas": 3, "minReplicas": 1, "maxReplicas": 5}
    return {
        "apiVersion": CLUSTERS.api_version,
        "kind": CLUSTERS.kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "rayVersion": "2.46.0",
            "headGroupSpec": {"rayStartParams": {}, "template": template("ray-head")},
            "workerGroupSpecs": [{**workers, "rayStartParams": {}, "template": template("ray-worker")}],
        },
    }


@dataclass(frozen=True)
class System:
    """An operator: the objects that it looks after, and the command that runs it."""

    name: str
    resource: Resource
    command: Sequence[str]

    def manifest(self, name: str, namespace: str) -> dict[str, Any]:
        return pipeline(name, namespace) if self.resource is PIPELINES else ray_cluster(name, namespace)


def systems(kuberay: Path, kubeconfig: str) -> list[System]:
    omni = [str(Path(sys.executable).with_name("omni")), "operator", "--no-leader-election", "--log-level=warning"]
    ray = [str(kuberay), f"-kubeconfig={kubeconfig}", "-enable-leader-election=false", "-reconcile-concurrency=16"]
    return [
        System(
            "kuberay", CLUSTERS, [*ray, "-qps=1000", "-burst=2000", "-metrics-addr=0", "-health-probe-bind-address=0"]
        ),
        System("ours", PIPELINES, [*omni, "--probe-port=0", "--metrics-port=0"]),
    ]


def answered(cluster: Cluster) -> Counter[tuple[str, str]]:
    """Requests that the API server has answered so far, by verb and resource, less dry runs, Leases and Events."""
    found: Counter[tuple[str, str]] = Counter()
    for labels, value in SERIES.findall(cluster.get_text("/metrics")):
        series = dict(LABEL.findall(labels))
        if series["resource"] not in ("leases", "events") and not series.get("dry_run"):
            below = f"/{series['subresource']}" if series.get("subresource") else ""
            found[series["verb"], series["resource"] + below] += int(float(value))
    return found


def writes(requests: Counter[tuple[str, str]]) -> int:
    return sum(number for (verb, _), number in requests.items() if verb in WRITES)


def pods(cluster: Cluster, homes: Sequence[str]) -> int:
    return sum(len(page) for home in homes for page, _ in cluster.pages(PODS, home))


def when_made(cluster: Cluster, count: int) -> Future[float]:
    """The time (of `perf_counter`) at which so many pods have been made from now on.

    It watches: lists of all pods, again and again, would be most of the API server's work.
    """
    made: Future[float] = Future()
    version = [version for _, version in cluster.pages(PODS, None)][-1]

    def follow() -> None:
        try:
            added = (event for event in cluster.watch(PODS, None, "", version) if event["type"] == "ADDED")
            for _ in itertools.islice(added, count):
                pass
            made.set_result(time.perf_counter())
        except Exception as error:
            made.set_exception(error)

    threading.Thread(target=follow, daemon=True).start()
    return made


def make_namespaces(cluster: Cluster, name: str) -> list[str]:
    homes = [f"{name}-{number:02d}" for number in range(HOMES)]
    for home in homes:
        cluster.apply(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": home}}, False, "bench")
    return homes


def measure_bare(turn: int, cluster: Cluster, count: int) -> dict[str, Any]:
    """As many objects as our operator makes, by a client with as many connections, from the first to the last pod."""
    homes = make_namespaces(cluster, f"bare-{turn}")
    wanted = [bare_children(cluster, pipeline(f"p{number}", homes[number % HOMES])) for number in range(count)]
    time.sleep(START_SECONDS)
    before, made = answered(cluster), when_made(cluster, PODS_EACH * count)
    applied: list[dict[str, Any]] = []

    def apply(number: str) -> None:
        for child in wanted[int(number)]:
            applied.append(cluster.apply(cluster.child_resources[child["kind"]], child, False, "bench"))

    began = time.perf_counter()
    for_each(WORKERS, [str(number) for number in range(count)], apply)
    seconds = made.result(PATIENCE) - began
    time.sleep(SETTLE_SECONDS)
    requests = answered(cluster) - before
    for child in applied:
        cluster.delete(cluster.child_resources[child["kind"]], child)
    wait_for(lambda: not pods(cluster, homes), "the end of all pods")
    return {"seconds_to_pods": seconds, "requests": requests.total(), "writes": writes(requests)}


def measure(system: System, turn: int, cluster: Cluster, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    homes = make_namespaces(cluster, f"{system.name}-{turn}")
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": args.sources}
    environment["KUBECONFIG"] = args.kubeconfig

    def create(number: str) -> None:
        cluster.create(system.resource, system.manifest(f"p{number}", homes[int(number) % HOMES]))

    operator = Process(list(system.command), environment, folder / f"{system.name}-{turn}.log")
    try:
        time.sleep(START_SECONDS)
        before, used = answered(cluster), operator.processor()
        made = when_made(cluster, PODS_EACH * args.objects)
        began = time.perf_counter()
        for_each(CREATORS, [str(number) for number in range(args.objects)], create)
        seconds = made.result(PATIENCE) - began
        time.sleep(SETTLE_SECONDS)  # what follows from the pods, such as their counts in the status, belongs to it
        requests, used = answered(cluster) - before, operator.processor() - used
        at_rest, idle = answered(cluster), operator.processor()
        time.sleep(REST_SECONDS)
        return {
            "seconds_to_pods": seconds,
            "processor_seconds": used,
            "mib": operator.memory(),
            "requests": requests.total(),
            "writes": writes(requests),
            "writes_at_rest": writes(answered(cluster) - at_rest),
            "processor_seconds_at_rest": operator.processor() - idle,
            "most_requests": {" ".join(key): number for key, number in requests.most_common(24)},
        }
    finally:
        for home in homes:
            for one in cluster.list_objects(system.resource, home):
                cluster.delete(system.resource, one)
        wait_for(lambda: not pods(cluster, homes), "the end of all pods")
        operator.stop()


def prepare(kubeconfig: str, definitions: Path) -> Cluster:
    apply = ["kubectl", f"--kubeconfig={kubeconfig}", "apply", "--server-side", "--force-conflicts", "-f"]
    for folder in (definitions, ROOT / "crds"):
        subprocess.run([*apply, str(folder)], check=True, capture_output=True)
    cluster = Cluster(kubeconfig=kubeconfig)
    for resource in (PIPELINES, CLUSTERS):
        wait_for(lambda resource=resource: cluster.serves(resource), resource.plural, 60)
    return cluster


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kuberay", type=Path, required=True, metavar="PROGRAM", help="KubeRay's operator")
    parser.add_argument("--definitions", type=Path, required=True, metavar="FOLDER", help="KubeRay's CRDs")
    parser.add_argument("--objects", type=int, default=100, help="how many are made at once (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=2, help="measurements of each (default: %(default)s)")
    parser.add_argument("--only", choices=("ours", "kuberay"), help="measure one of them alone")
    parser.add_argument("--kubeconfig", help="a cluster to use (default: a control plane of its own)")
    parser.add_argument("--sources", default=os.environ.get("PYTHONPATH", ""), help="PYTHONPATH of our operator")
    parser.add_argument("--output", type=Path, default=RESULTS / "kuberay.json", help="where to write the figures")
    args = parser.parse_args()
    before, figures = machine(), {}
    with control_plane(args.kubeconfig) as kubeconfig, TemporaryDirectory() as folder:
        args.kubeconfig = kubeconfig
        cluster = prepare(kubeconfig, args.definitions)
        for turn in range(args.turns):
            for system in systems(args.kuberay, kubeconfig)[:: 1 if turn % 2 == 0 else -1]:
                if args.only in (None, system.name):
                    measured = measure(system, turn, cluster, Path(folder), args)
                    console.print(system.name, measured)
                    figures.setdefault(system.name, []).append(measured)
            if args.only is None:
                bare = measure_bare(turn, cluster, args.objects)
                console.print("a bare client", bare)
                figures.setdefault("bare client", []).append(bare)
    write(args.output, before, {"objects": args.objects, **figures})


if __name__ == "__main__":
    main()
