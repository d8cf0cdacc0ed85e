"""The PodDisruptionBudget of a stage: how many of its pods may be evicted at a time while nodes are drained.

It is written for policy/v1, and policy/v1beta1 has the same fields. The head has none: a budget for a single pod would
block the draining of its node forever.
"""

from omni_operator.crd.objects import Object
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.planning.manifests import labels
from omni_operator.planning.manifests.ownership import child
from omni_operator.planning.topology.records import Process


def disruption_budget(pipeline: OmniPipeline, process: Process) -> Object:
    """The limit of the rollout, but at least one pod: otherwise a node with such a pod could never be drained."""
    stage, rollout = process.stage.name, process.stage.rollout
    unavailable = 1 if rollout.max_unavailable in (0, "0%") else rollout.max_unavailable
    return child(
        pipeline,
        "policy/v1",
        "PodDisruptionBudget",
        process.name,
        labels.of_role(pipeline.name, labels.REPLICA, stage),
        {
            "spec": {
                "maxUnavailable": unavailable,
                "selector": {"matchLabels": labels.stage_selector(pipeline.name, stage)},
            }
        },
    )
