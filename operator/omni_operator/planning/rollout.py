"""The order in which a change reaches the processes of a pipeline: which Deployments must wait for what. Pure.

A new head that does not start would serve nobody. So if only its image changes, the head comes last, after every stage
runs the new image: a broken image stops at the first replica, and the old head continues to serve with the others.
But if the old head refuses the new replicas, for instance because the new image contains another model, the head waits
for no more of them.

Every other change reaches the head at once: replicas could not join a head with other stages, models or secrets. The
old head first answers what it has accepted, which needs every stage. So the stages keep their pods until it has ended;
after that, nothing is under way.

A pipeline that downloads its models first creates and replaces no pods before they are there: the pods would download
while they hold devices. The pods that serve continue to do so, and are scaled. A pipeline that is suspended drains in
the order of its requests: the head, then the stages, the first one first.
"""

from collections.abc import Collection, Sequence
from copy import deepcopy
from typing import Any

from omni_operator.crd.objects import Object, Reference
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.planning.drift import has_drifted
from omni_operator.planning.manifests.labels import BINDING, PREFETCH, ROLE
from omni_operator.planning.manifests.ownership import IMAGELESS_HASH, POD_HASH, SPEC_HASH
from omni_operator.planning.observed import has_ended, is_pod_of
from omni_operator.planning.plan import Plan, differs, reference
from omni_operator.planning.topology.records import Process, Topology


def head_must_wait(
    topology: Topology, desired: Sequence[Object], live: Sequence[Object], refusing: Collection[str]
) -> bool:
    """Whether the head keeps its old image until the stages have the new one.

    `refusing`: the stages whose new replicas the head refuses
    """
    wanted_by_reference, live_by_reference = ({reference(child): child for child in found} for found in (desired, live))
    head, live_head = (found.get(deployment_of(topology.head)) for found in (wanted_by_reference, live_by_reference))
    if not head or not live_head or not has_ready_pod(live_head) or not differs_only_in_image(head, live_head):
        return False

    def is_proven(process: Process) -> bool:
        stage, live_stage = (found.get(deployment_of(process)) for found in (wanted_by_reference, live_by_reference))
        if not stage or not live_stage or differs(stage, live_stage) or not is_current(live_stage):
            return False
        return process.stage.name in refusing or is_rolled_out(live_stage)

    return not all(is_proven(process) for process in topology.replicas)


def deployments_waiting_for_head(
    topology: Topology, plan: Plan, live: Sequence[Object], pods: Sequence[Object], now: str
) -> list[Reference]:
    """The Deployments that keep their pods, because a head that is being replaced still answers requests.

    `now` is RFC 3339.
    """
    if not any(is_pod_of(pod, topology.head) and is_draining(pod, now) for pod in pods):
        return []
    live_by_reference = {reference(child): child for child in live}
    planned = {reference(child): child for child in plan.apply if reference(child) in live_by_reference}
    head = deployment_of(topology.head)
    replaced = [ref for ref, child in planned.items() if replaces_pods(child, live_by_reference[ref])]
    if head not in replaced and has_new_pod(live_by_reference.get(head)):
        return []
    deleted = [reference(child) for child in plan.delete if child["kind"] == "Deployment"]
    return [ref for ref in (*replaced, *deleted) if ref != head]


def following_claims(desired: Sequence[Object], live: Sequence[Object]) -> list[Object]:
    """The desired objects without the Job that binds a claim, if it is bound, or else without the downloads into it."""
    binding = [child for child in desired if child["kind"] == "Job" and role_of(child) == BINDING]
    if not binding:
        return list(desired)
    claims = {reference(child): child for child in live if child["kind"] == "PersistentVolumeClaim"}
    names = {one["persistentVolumeClaim"]["claimName"] for job in binding for one in claim_volumes(job)}
    is_bound = all(is_claim_bound(claims.get(("PersistentVolumeClaim", name))) for name in names)
    left_out = BINDING if is_bound else PREFETCH
    return [child for child in desired if child["kind"] != "Job" or role_of(child) != left_out]


def waiting_for_prefetch(topology: Topology, desired: Sequence[Object], live: Sequence[Object]) -> list[Reference]:
    """The Deployments whose pods are not created or replaced yet because models are still being downloaded.

    If a head runs that will be replaced, with it waits what it needs: stages that are no longer wanted, and the
    ConfigMap that it would read if it started again.
    """
    wanted_by_reference, live_by_reference = ({reference(child): child for child in found} for found in (desired, live))
    jobs = [ref for ref in wanted_by_reference if ref[0] == "Job"]
    if all(is_complete(live_by_reference.get(ref)) and role_of(wanted_by_reference[ref]) != BINDING for ref in jobs):
        return []
    deployments = {ref: child for ref, child in wanted_by_reference.items() if ref[0] == "Deployment"}
    waiting = [
        ref
        for ref, child in deployments.items()
        if ref not in live_by_reference or replaces_pods(child, live_by_reference[ref])
    ]
    head = deployment_of(topology.head)
    if head not in waiting or head not in live_by_reference:
        return waiting
    needed = [
        ref for ref in live_by_reference if ref[0] == "ConfigMap" or (ref[0] == "Deployment" and ref not in deployments)
    ]
    return [*waiting, *needed]


def deployments_waiting_for_drain(
    pipeline: OmniPipeline, topology: Topology, pods: Sequence[Object], now: str
) -> list[Reference]:
    """The Deployments of a suspended pipeline that keep their pods, because pods before them still drain.

    `now` is RFC 3339. A pod that should have ended by then, as one on a lost node, holds up nothing.
    """
    if not pipeline.spec.suspend:
        return []
    processes = topology.processes
    drains = [any(is_pod_of(pod, process) and is_draining(pod, now) for pod in pods) for process in processes]
    return [deployment_of(process) for i, process in enumerate(processes) if any(drains[:i])]


def is_draining(pod: Object, now: str) -> bool:
    """Whether a pod runs, and will not be killed before `now`."""
    if has_ended(pod):
        return False
    ends_at = pod["metadata"].get("deletionTimestamp")  # with its grace period
    return ends_at is None or bool(ends_at > now)


def is_complete(job: Object | None) -> bool:
    conditions = ((job or {}).get("status") or {}).get("conditions") or []
    return any(condition["type"] == "Complete" and condition["status"] == "True" for condition in conditions)


def role_of(child: Object) -> str | None:
    return (child["metadata"].get("labels") or {}).get(ROLE)


def claim_volumes(job: Object) -> list[Object]:
    """The volumes of a Job's pods that are claims."""
    return [one for one in job["spec"]["template"]["spec"]["volumes"] if "persistentVolumeClaim" in one]


def is_claim_bound(claim: Object | None) -> bool:
    return ((claim or {}).get("status") or {}).get("phase") == "Bound"


def deployment_of(process: Process) -> Reference:
    return "Deployment", process.name


def replaces_pods(desired: Object, live: Object) -> bool:
    """Whether applying a Deployment replaces its pods."""
    if desired["kind"] != "Deployment":
        return False
    applied = (live["metadata"].get("annotations") or {}).get(POD_HASH)
    return bool(applied != desired["metadata"]["annotations"][POD_HASH])


def is_current(live: Object) -> bool:
    """Whether the counts of a Deployment are about its current generation."""
    observed = (live.get("status") or {}).get("observedGeneration", 0)
    return bool(observed >= live["metadata"].get("generation", 0))


def has_new_pod(live: Object | None) -> bool:
    """Whether a head's Deployment has a pod of the current spec, which it creates when the old one has ended."""
    return live is not None and is_current(live) and bool(live["status"].get("updatedReplicas"))


def has_ready_pod(deployment: Object) -> bool:
    return bool((deployment.get("status") or {}).get("readyReplicas"))


def differs_only_in_image(desired: Object, live: Object) -> bool:
    """Whether the desired Deployment has another image, and equals the live one in everything else.

    The hashes tell, because the image that the server stores need not be the one that was applied.
    """
    applied, wanted = live["metadata"].get("annotations") or {}, desired["metadata"]["annotations"]
    if applied.get(SPEC_HASH) == wanted[SPEC_HASH] or applied.get(IMAGELESS_HASH) != wanted[IMAGELESS_HASH]:
        return False
    images = {container["name"]: container["image"] for container in containers(desired)}
    with_new_image: dict[str, Any] = deepcopy(dict(live))
    for container in containers(with_new_image):
        container["image"] = images.get(container["name"], container["image"])
    return not has_drifted(with_new_image, {"spec": desired["spec"]})


def containers(deployment: Object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = deployment["spec"]["template"]["spec"]["containers"]
    return found


def is_rolled_out(live: Object) -> bool:
    """Whether every pod of a Deployment exists, runs its current spec and is ready."""
    counts, copies = live.get("status") or {}, live["spec"].get("replicas", 0)
    return all(counts.get(key, 0) == copies for key in ("replicas", "readyReplicas", "updatedReplicas"))
