"""Whether the images of a pipeline are on the nodes that its pods may use, as a condition. Pure."""

from omni_operator.crd.objects import Object
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.crd.status_types import ConditionType
from omni_operator.planning.manifests.labels import IMAGE_PULL, ROLE, STAGE
from omni_operator.planning.observed import Observed
from omni_operator.planning.pod_trouble import pod_trouble

NODES_WARM: ConditionType = "NodesWarm"


def nodes_warm_condition(pipeline: OmniPipeline, observed: Observed) -> tuple[ConditionType, bool, str, str]:
    """Type, whether it is true, reason and message."""
    if not pipeline.spec.image.prefetch:
        return NODES_WARM, False, "NotRequested", "a node pulls the images when a pod there needs them"
    if pipeline.spec.suspend:
        return NODES_WARM, False, "AtRest", "a pipeline that is suspended pulls no images"
    pulls = sorted(observed.image_pulls, key=lambda pull: str(pull["metadata"]["name"]))
    message = f"nodes with the images: {', '.join(map(nodes_of, pulls))}"
    if not pulls or not all(is_current(pull) for pull in pulls):
        return NODES_WARM, False, "Pulling", "the nodes begin to pull the images"
    if not all(count(pull, "desiredNumberScheduled") for pull in pulls):
        return NODES_WARM, False, "NoNodes", f"{message}; no node suits the pods of a stage"
    if all(is_complete(pull) for pull in pulls):
        return NODES_WARM, True, "Pulled", message
    pods = [pod for pod in observed.pods if (pod["metadata"].get("labels") or {}).get(ROLE) == IMAGE_PULL]
    troubles = [trouble for pod in pods if (trouble := pod_trouble(pod))]
    if troubles:
        trouble = min(troubles, key=lambda one: (one.rank, one.message))
        return NODES_WARM, False, trouble.reason, f"{message}; {trouble.message}"
    return NODES_WARM, False, "Pulling", message


def nodes_of(pull: Object) -> str:
    """`painter 3 of 4`."""
    stage = pull["metadata"]["labels"][STAGE]
    return f"{stage} {count(pull, 'numberReady')} of {count(pull, 'desiredNumberScheduled')}"


def count(pull: Object, key: str) -> int:
    return int((pull.get("status") or {}).get(key, 0))


def is_current(pull: Object) -> bool:
    """Whether the counts of a DaemonSet are about its current generation."""
    return bool(pull.get("status")) and count(pull, "observedGeneration") >= pull["metadata"].get("generation", 0)


def is_complete(pull: Object) -> bool:
    """Whether every node has the current images."""
    counts = {count(pull, key) for key in ("desiredNumberScheduled", "updatedNumberScheduled", "numberReady")}
    return len(counts) == 1
