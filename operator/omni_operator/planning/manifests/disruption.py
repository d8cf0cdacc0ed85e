"""The PodDisruptionBudget of a stage: how many of its pods the draining of nodes may take at one time.

Written for policy/v1; a cluster that has only policy/v1beta1 takes the same. The head has none: there is one, and a
budget that keeps one of one would keep its node from ever being drained.
"""

from omni_operator.crd.objects import Object
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.planning.manifests import labels
from omni_operator.planning.manifests.ownership import child
from omni_operator.planning.topology.records import Process


def disruption_budget(pipeline: OmniPipeline, process: Process) -> Object:
    """As many as a rollout may take; but one at least, or no node could be drained that holds one."""
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
