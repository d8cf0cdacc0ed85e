"""Deployments and pods as a cluster returns them, the observation of them, and the status that follows."""

from typing import Any

from omni_operator.crd.parsing import parse
from omni_operator.planning.observed import Failure, Observed
from omni_operator.planning.status import accepted_status
from omni_operator.planning.topology.cluster import cluster_topology

NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-01T00:05:00Z"


def deployment(
    ready: int, replicas: int, updated: int | None = None, current: bool = True, **conditions: str
) -> dict[str, Any]:
    return {
        "metadata": {"generation": 4},
        "status": {
            "observedGeneration": 4 if current else 3,
            "replicas": replicas,
            "readyReplicas": ready,
            "updatedReplicas": replicas if updated is None else updated,
            "conditions": [
                {
                    "type": kind,
                    "status": "True" if kind == "ReplicaFailure" else "False",
                    "reason": reason,
                    "message": "m",
                }
                for kind, reason in conditions.items()
            ],
        },
    }


def pod(name: str = "digits-painter-x", role: str = "replica", **status: Any) -> dict[str, Any]:
    labels = {"omnipipeline.dev/role": role, "omnipipeline.dev/stage": "painter"}
    return {"metadata": {"name": name, "labels": labels}, "status": status}


def waiting(reason: str, message: str = "", last: dict[str, Any] | None = None) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    container = {"name": "omni", "image": "worker:1", "state": state, "lastState": {"terminated": last} if last else {}}
    return {"phase": "Pending", "containerStatuses": [container]}


STARTED = {"containerStatuses": [{"name": "omni", "started": True, "state": {"running": {}}}]}


SERVING = {"conditions": [{"type": "Ready", "status": "True"}]}


CRASH = {"exitCode": 2, "reason": "Error", "message": "loading\nomni serve: MODEL: no such folder\n"}


OUT_OF_MEMORY = {"exitCode": 137, "reason": "OOMKilled"}


SCHEDULER = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."


NO_GPU = {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": SCHEDULER}]}


UP, DOWN = deployment(1, 1), deployment(0, 1)


def status_of(manifest: dict[str, Any], observed: Observed, previous: Any = None, now: str = NOW) -> dict[str, Any]:
    pipeline = parse(manifest)
    status = accepted_status(pipeline, cluster_topology(pipeline), observed, previous or {}, now)
    return status.model_dump(by_alias=True, mode="json", exclude_none=True)


def conditions(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {condition["type"]: condition for condition in status["conditions"]}


def observed(head: Any, painters: Any, pods: list[Any], failures: tuple[Failure, ...] = ()) -> Observed:
    found = {"digits-head": head, "digits-painter": painters}
    return Observed({name: one for name, one in found.items() if one}, pods, failures)


def of_two(head: Any, thinkers: Any, painters: Any, pods: list[Any]) -> Observed:
    found = {"two-head": head, "two-thinker": thinkers, "two-painter": painters}
    return Observed({name: one for name, one in found.items() if one}, pods)


def thinker_pod(**status: Any) -> dict[str, Any]:
    labels = {"omnipipeline.dev/role": "replica", "omnipipeline.dev/stage": "thinker"}
    return {"metadata": {"name": "two-thinker-x", "labels": labels}, "status": status}


def prefetching(**status: Any) -> dict[str, Any]:
    metadata = {"name": "digits-fetch-x", "labels": {"omnipipeline.dev/role": "prefetch"}}
    return {"metadata": metadata, "status": status}
