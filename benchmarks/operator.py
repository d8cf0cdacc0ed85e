"""What the operator costs, against a real API server without nodes: how fast, how many writes, how much memory.

A control plane of its own is started (`hack/cluster up --no-node`), or that of `--kubeconfig` is used, which should
have no other load. Each pipeline asks for four pods, which are made and fit nowhere; they are spread over fifty
namespaces. In turn:

- 5,000 pods of others are made: what do they add to the operator?
- 50 pipelines at a time, twice, by turns with a bare client that applies the same objects over as many connections;
- one pipeline after another, while 100 others are edited all the time: from its creation to its last child;
- many at once: from the first creation to the last child, and to the last pod;
- then nothing for a while: the writes that the API server counts, and the operator's processor time and memory;
- another operator takes over: until it has looked at every pipeline, and the writes that the API server counts;
- as many at once by the bare client.

A child is there when a watch of this process says so. Writes are those of `apiserver_request_total` of all kinds that
the operator writes, whoever made them; renewals of Leases are counted apart.

    python -m benchmarks.operator [--pipelines 1000] [--steady 300] [--quick] [--output FILE]
"""

import argparse
import copy
import os
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.common import RESULTS, console, machine, quantile, write
from benchmarks.operator_process import Operator, wait_for
from benchmarks.operator_writes import Eye, ours, settle, written
from rich.table import Table

from omni_operator.controller.operator import WORKERS
from omni_operator.controller.reconcile import supported_children
from omni_operator.crd.parsing import parse
from omni_operator.kube.client import Cluster
from omni_operator.kube.resources import PIPELINES, PODS, Resource
from omni_operator.planning.manifests import children
from omni_operator.planning.manifests.labels import MANAGED_SELECTOR
from omni_operator.planning.manifests.pod import Surroundings
from omni_operator.planning.topology.cluster import cluster_topology

ROOT = Path(__file__).parents[1]
INSTANCE = "bench-operator"
HOMES = 50
"""Namespaces that the pipelines are spread over: Kubernetes' own controllers look through all pods of one at a time."""
PIPELINES_IN, BARE_IN, OTHERS = "bench", "bare", "bench-others"
NAMESPACES = Resource("Namespace", "", "v1", "namespaces")
BATCH = 50
TURNS = 2
PROBES = 60
REPLICAS = 3
EDIT_SECONDS = 0.02


def home(name: str, kind: str = PIPELINES_IN) -> str:
    """The namespace of a pipeline, or of the bare objects of one."""
    return f"{kind}-{zlib.crc32(name.encode()) % HOMES:02d}"


def manifest(name: str, kind: str = PIPELINES_IN) -> dict[str, Any]:
    """A pipeline of a head and three painters."""
    return {
        "apiVersion": PIPELINES.api_version,
        "kind": PIPELINES.kind,
        "metadata": {"name": name, "namespace": home(name, kind)},
        "spec": {
            "model": {"source": "builtin://digits"},
            "replicas": REPLICAS,
            "head": {"localReplicas": 0},
            "stages": [
                {"name": "painter", "engine": "diffusion", "accelerator": {"resource": "nvidia.com/gpu", "count": 1}}
            ],
        },
    }


def bare_children(cluster: Cluster, manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects that the operator would make of a pipeline, owned by nobody and not for it to look at."""
    manifest["metadata"] |= {"uid": "0" * 8, "generation": 1}
    pipeline = parse(manifest)
    made = copy.deepcopy(children(pipeline, cluster_topology(pipeline, {}), Surroundings("worker:1"), "s" * 64))
    for child in made:
        del child["metadata"]["ownerReferences"]
        labels = [child["metadata"]["labels"]]
        if child["kind"] == "Deployment":
            labels.append(child["spec"]["template"]["metadata"]["labels"])
        for one in labels:
            one["app.kubernetes.io/managed-by"] = "bench"
    return supported_children(made, cluster.child_resources)[0]


# ---- the phases


def in_turns(cluster: Cluster, eye: Eye, bare_eye: Eye, batch: int) -> dict[str, Any]:
    """Batches of pipelines by the operator, and their objects by a bare client: seconds until all Deployments are."""
    seconds: dict[str, list[float]] = {"operator": [], "bare client": []}
    for turn in range(TURNS):
        names = [f"turn-{turn}-{number:03d}" for number in range(batch)]
        order = ["operator", "bare client"][:: 1 if turn % 2 == 0 else -1]
        for system in order:
            began = time.perf_counter()
            if system == "operator":
                for_each(WORKERS, names, lambda name: cluster.create(PIPELINES, manifest(name)))
                times = eye.wait("Deployment", 2, names)
            else:
                for_each(WORKERS, names, lambda name: apply_all(cluster, name))
                times = bare_eye.wait("Deployment", 2, names)
            seconds[system].append(max(times.values()) - began)
            settle(cluster)
    ratios = [one / other for one, other in zip(seconds["operator"], seconds["bare client"], strict=True)]
    return {"pipelines": batch, "seconds": seconds, "operator_to_bare": ratios}


def apply_all(cluster: Cluster, name: str) -> None:
    for child in bare_children(cluster, manifest(name, BARE_IN)):
        cluster.apply(cluster.child_resources[child["kind"]], child, False, "bench")


def for_each(workers: int, items: Sequence[str], call: Callable[[str], object]) -> None:
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(call, items))


def one_by_one(cluster: Cluster, eye: Eye, batch: int, probes: int) -> dict[str, Any]:
    """A new pipeline now and then while others are edited all the time: seconds from its creation to its children."""
    stopped = threading.Event()
    edits = 0

    def edit() -> None:
        nonlocal edits
        for number in count():
            if stopped.wait(EDIT_SECONDS):
                return
            name = f"turn-{number % TURNS}-{number // TURNS % batch:03d}"
            cluster.merge(PIPELINES, home(name), name, {"spec": {"replicas": 1 + number % 5}})
            edits += 1

    editor = threading.Thread(target=edit)
    editor.start()
    seconds = []
    began = time.perf_counter()
    for number in range(probes):
        name = f"probe-{number:03d}"
        cluster.create(PIPELINES, manifest(name))
        made = time.perf_counter()
        seconds.append(eye.wait("Deployment", 2, [name])[name] - made)
    took = time.perf_counter() - began
    stopped.set()
    editor.join()
    settle(cluster)
    return {"others": TURNS * batch, "edits_per_second": edits / took, "seconds": seconds, **percentiles(seconds)}


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    return {"p50": quantile(seconds, 0.5), "p99": quantile(seconds, 0.99)}


def at_once(cluster: Cluster, operator: Operator, eye: Eye, pipelines: int) -> dict[str, Any]:
    names = [f"many-{number:04d}" for number in range(pipelines)]
    before, used, calls = written(cluster), operator.processor(), operator.calls()
    began = time.perf_counter()
    for_each(WORKERS, names, lambda name: cluster.create(PIPELINES, manifest(name)))
    posted = time.perf_counter()
    deployments = max(eye.wait("Deployment", 2, names).values())
    pods = max(eye.wait("Pod", 1 + REPLICAS, names).values())
    settled = settle(cluster)
    return {
        "pipelines": pipelines,
        "seconds_to_post": posted - began,
        "seconds_to_children": deployments - began,
        "seconds_to_pods": pods - began,
        "seconds_to_settle": settled - began,
        "operator_processor_seconds": operator.processor() - used,
        "operator_calls": operator.calls() - calls,
        "writes": ours(before, written(cluster)),
    }


def bare_at_once(cluster: Cluster, eye: Eye, pipelines: int) -> dict[str, Any]:
    """The objects of as many pipelines, by the bare client: what the API server and the controllers take of it."""
    names = [f"many-{number:04d}" for number in range(pipelines)]
    began = time.perf_counter()
    for_each(WORKERS, names, lambda name: apply_all(cluster, name))
    return {
        "pipelines": pipelines,
        "seconds_to_children": max(eye.wait("Deployment", 2, names).values()) - began,
        "seconds_to_pods": max(eye.wait("Pod", 1 + REPLICAS, names).values()) - began,
    }


def at_rest(cluster: Cluster, operator: Operator, seconds: float) -> dict[str, Any]:
    before, used = written(cluster), operator.processor()
    passes, calls = operator.passes(), operator.calls()
    time.sleep(seconds)
    after = written(cluster)
    return {
        "seconds": seconds,
        "writes": ours(before, after),
        "lease_writes": (after - before)["leases"],
        "passes": operator.passes() - passes,
        "calls": operator.calls() - calls,
        "processor_share": (operator.processor() - used) / seconds,
    }


def total(cluster: Cluster) -> int:
    return sum(len(page) for page, _ in cluster.pages(PIPELINES, None))


def unrelated(cluster: Cluster, operator: Operator, number: int) -> dict[str, Any]:
    """Pods that are nobody's, of the size that pods have; no scheduler looks at them."""
    before = operator.memory()
    spec = {
        "schedulerName": "nobody",
        "containers": [{"name": "a", "image": "a", "env": [{"name": "A", "value": "a"}]}],
    }

    def make(name: str) -> None:
        metadata = {"name": name, "namespace": OTHERS, "labels": {"app": "other"}}
        cluster.create(PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})

    for_each(16, [f"other-{one:05d}" for one in range(number)], make)
    time.sleep(5)
    return {"pods": number, "mib_added": operator.memory() - before}


# ---- the whole


@contextmanager
def control_plane(given: str | None) -> Iterator[str]:
    if given:
        yield given
        return
    hack = [sys.executable, str(ROOT / "hack/cluster")]
    name = f"--name={INSTANCE}"
    try:
        subprocess.run([*hack, "up", "--no-node", name], check=True)
        yield subprocess.run([*hack, "kubeconfig", name], check=True, capture_output=True, text=True).stdout.strip()
    finally:
        subprocess.run([*hack, "down", name], check=True)


def prepare(kubeconfig: str) -> Cluster:
    crd = ["kubectl", f"--kubeconfig={kubeconfig}", "apply", "--server-side", "--force-conflicts", "-f"]
    subprocess.run([*crd, str(ROOT / "crds/omnipipelines.yaml")], check=True, capture_output=True)
    cluster = Cluster(kubeconfig=kubeconfig)
    wait_for(lambda: cluster.serves(PIPELINES), "the CRD", 60)
    homes = [f"{kind}-{number:02d}" for kind in (PIPELINES_IN, BARE_IN) for number in range(HOMES)]
    for name in (*homes, OTHERS):
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        cluster.apply(NAMESPACES, body, False, "bench")
    for name in (*homes, OTHERS):
        wait_for(lambda name=name: cluster.get(Resource("", "", "v1", "serviceaccounts"), name, "default"), name, 60)
    return cluster


def measure(cluster: Cluster, kubeconfig: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    batch, probes, others = (10, 5, 100) if args.quick else (BATCH, PROBES, 5000)
    eye, bare_eye = Eye(cluster, MANAGED_SELECTOR), Eye(cluster, "app.kubernetes.io/managed-by=bench")
    operator = Operator(kubeconfig, folder / "operator.log", args.sources)
    figures: dict[str, Any] = {}
    try:
        operator.acts()
        time.sleep(5)
        idle = operator.memory()
        figures["unrelated"] = show("unrelated", unrelated(cluster, operator, others))
        figures["in_turns"] = show("in turns", in_turns(cluster, eye, bare_eye, batch))
        figures["one_by_one"] = show("one by one", one_by_one(cluster, eye, batch, probes))
        known, before = total(cluster), operator.memory()
        figures["at_once"] = show("at once", at_once(cluster, operator, eye, args.pipelines))
        figures["at_rest"] = show("at rest", at_rest(cluster, operator, args.steady))
        there = total(cluster)
        figures["memory"] = {
            "idle_mib": idle,
            "pipelines": there,
            "mib": operator.memory(),
            "peak_mib": operator.peak(),
            "kib_per_pipeline": (operator.memory() - before) * 1024 / (there - known),
        }
        operator.stop()
        writes, began = written(cluster), time.perf_counter()
        operator = Operator(kubeconfig, folder / "successor.log", args.sources)
        wait_for(lambda: operator.passes() >= there, "a pass over every pipeline")
        took, used, calls = time.perf_counter() - began, operator.processor(), operator.calls()
        settle(cluster)
        figures["restart"] = {
            "pipelines": there,
            "seconds": took,
            "processor_seconds": used,
            "calls": calls,
            "writes": ours(writes, written(cluster)),
            "mib": operator.memory(),
            "peak_mib": operator.peak(),
            "kib_per_pipeline": (operator.memory() - idle) * 1024 / there,
        }
        show("memory", figures["memory"])
        show("restart", figures["restart"])
        figures["bare_at_once"] = show("bare client, at once", bare_at_once(cluster, bare_eye, args.pipelines))
    finally:
        operator.stop()
        eye.is_closed = bare_eye.is_closed = True
    return figures


def show(title: str, figures: dict[str, Any]) -> dict[str, Any]:
    table = Table("", "", title=title, show_header=False)
    for name, value in figures.items():
        if not isinstance(value, list):
            table.add_row(name, f"{value:.3f}" if isinstance(value, float) else str(value))
    console.print(table)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipelines", type=int, default=1000, help="how many are made at once (default: %(default)s)")
    parser.add_argument("--steady", type=float, default=300, help="seconds of rest (default: %(default)s)")
    parser.add_argument("--kubeconfig", help="a cluster to use (default: a control plane of its own)")
    parser.add_argument("--sources", default=os.environ.get("PYTHONPATH", ""), help="PYTHONPATH of the operator")
    parser.add_argument("--quick", action="store_true", help="few of all, to see that it runs; no figures")
    parser.add_argument("--output", type=Path, default=RESULTS / "operator.json", help="where to write the figures")
    args = parser.parse_args()
    if args.quick:
        args.pipelines, args.steady = 20, 10.0
    before = machine()
    with control_plane(args.kubeconfig) as kubeconfig, TemporaryDirectory() as folder:
        figures = measure(prepare(kubeconfig), kubeconfig, Path(folder), args)
    write(args.output, before, {"workers": WORKERS, **figures})


if __name__ == "__main__":
    main()
