"""The status of a pipeline: counts and conditions, from its spec and what was observed in the cluster. Pure."""

from omni_operator.crd.objects import Object
from omni_operator.crd.problems import InvalidSpec
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.crd.status_types import StageStatus, Status
from omni_operator.planning.conditions import DesiredCondition, desired_conditions, updated_conditions
from omni_operator.planning.manifests.labels import REPLICA, ROLE, pipeline_selector
from omni_operator.planning.observed import DeploymentState, Observed, deployment_state
from omni_operator.planning.topology.records import Topology


def accepted_status(
    pipeline: OmniPipeline, topology: Topology, observed: Observed, previous: Object, now: str
) -> Status:
    """The status of a pipeline whose spec is valid. `now` is RFC 3339, for the conditions that change."""
    head = deployment_state(topology.head, observed, now)
    stages = [deployment_state(process, observed, now) for process in topology.replicas]
    conditions = desired_conditions(pipeline, topology, head, stages, observed)
    selector = {**pipeline_selector(pipeline.name), ROLE: REPLICA}
    generation = pipeline.metadata.generation
    return Status(
        observed_generation=generation,
        replicas=sum(stage.replicas for stage in stages),
        ready_replicas=sum(stage.ready for stage in stages),
        selector=",".join(f"{key}={value}" for key, value in selector.items()),
        stages=tuple(stage_status(stage) for stage in stages),
        conditions=updated_conditions(previous.get("conditions") or [], conditions, generation, now),
    )


def rejected_status(generation: int, invalid: InvalidSpec, previous: Object, now: str) -> Status:
    """The status of a pipeline whose spec is invalid. Its processes continue to run, so the previous counts stay."""
    kept = "what ran before is left as it is until the spec is valid"
    desired: list[DesiredCondition] = [
        ("Accepted", False, "InvalidSpec", str(invalid)),
        ("Ready", False, "NotAccepted", f"the spec is not valid: {invalid}; {kept}"),
        ("Progressing", False, "NotAccepted", f"the spec is not valid; {kept}"),
    ]
    conditions = updated_conditions(previous.get("conditions") or [], desired, generation, now)
    counts = {key: value for key, value in previous.items() if key not in ("conditions", "observedGeneration")}
    return Status.model_validate({**counts, "observedGeneration": generation, "conditions": conditions})


def stage_status(stage: DeploymentState) -> StageStatus:
    trouble = None if stage.is_settled else stage.trouble
    return StageStatus(
        name=stage.process.stage.name,
        desired=stage.process.copies,
        replicas=stage.replicas,
        ready=stage.ready,
        updated=stage.updated,
        reason=trouble.reason if trouble else None,
        message=trouble.message if trouble else None,
    )
