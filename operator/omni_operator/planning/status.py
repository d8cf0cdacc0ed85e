"""The status of a pipeline: counts and conditions, from its spec and what was observed in the cluster. Pure."""

from collections.abc import Sequence
from dataclasses import replace

from omni_operator.crd.objects import Object
from omni_operator.crd.problems import InvalidSpec
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.crd.spec.stage import Stage
from omni_operator.crd.status_types import LoraStatus, StageStatus, Status
from omni_operator.planning.conditions import (
    ENDPOINT_DOWN,
    desired_conditions,
    kstatus_conditions,
    rejected_conditions,
    updated_conditions,
)
from omni_operator.planning.last_valid_spec import is_in_effect, kept_spec
from omni_operator.planning.manifests.labels import stage_selector
from omni_operator.planning.observed import DeploymentState, Observed, deployment_state
from omni_operator.planning.topology.records import Topology


def accepted_status(
    pipeline: OmniPipeline, topology: Topology, observed: Observed, previous: Object, now: str
) -> Status:
    """The status of a pipeline that follows a valid spec. `now` is RFC 3339, for the conditions that change."""
    head = deployment_state(topology.head, observed, now)
    stages = [deployment_state(process, observed, now) for process in topology.replicas]
    kept = kept_spec(pipeline, previous)
    observed = replace(observed, is_outdated=pipeline.spec.paused and not is_in_effect(pipeline, kept))
    conditions = desired_conditions(pipeline, topology, head, stages, observed)
    scaled = pipeline.scaled_stage.name if pipeline.scaled_stage else ""  # no pod has an empty label
    generation = pipeline.metadata.generation
    return Status(
        observed_generation=generation,
        replicas=sum(stage.replicas for stage in stages if stage.process.stage.name == scaled),
        pods=sum(stage.replicas for stage in stages),
        ready_replicas=sum(stage.ready for stage in stages),
        selector=",".join(f"{key}={value}" for key, value in stage_selector(pipeline.name, scaled).items()),
        stages=stage_statuses(pipeline, stages, observed),
        last_valid_spec=kept,
        conditions=updated_conditions(previous.get("conditions") or [], conditions, generation, now),
    )


def rejected_status(generation: int, invalid: InvalidSpec, previous: Object, now: str) -> Status:
    """The status of a pipeline whose spec is invalid, and whose last valid one is not known. The counts stay."""
    rejected = rejected_conditions(invalid, "nothing is changed until it is")
    desired = [*rejected, *kstatus_conditions(rejected[-1])]
    conditions = updated_conditions(previous.get("conditions") or [], desired, generation, now)
    counts = {key: value for key, value in previous.items() if key not in ("conditions", "observedGeneration")}
    return Status.model_validate({**counts, "observedGeneration": generation, "conditions": conditions})


def stage_statuses(
    pipeline: OmniPipeline, deployments: Sequence[DeploymentState], observed: Observed
) -> tuple[StageStatus, ...]:
    """The status of each stage, in the order in which requests pass them."""
    by_name = {one.process.stage.name: stage_status(one, observed) for one in deployments}
    return tuple(by_name.get(stage.name) or endpoint_status(stage, observed) for stage in pipeline.spec.stages)


def endpoint_status(stage: Stage, observed: Observed) -> StageStatus:
    """The status of a stage that is a server outside the pipeline, and has no pods."""
    found = observed.endpoints.get(stage.name)
    is_known = found is not None and (found.is_up or found.problem is not None)
    return StageStatus(
        name=stage.name,
        desired=0,
        replicas=0,
        ready=0,
        updated=0,
        reason=ENDPOINT_DOWN if found and found.problem and not found.is_up else None,
        message=found.problem if found else None,
        endpoint=("Up" if found.is_up else "Down") if found and is_known else "Unknown",
    )


def stage_status(stage: DeploymentState, observed: Observed) -> StageStatus:
    trouble = None if stage.is_settled else stage.trouble
    return StageStatus(
        name=stage.process.stage.name,
        desired=stage.process.copies,
        replicas=stage.replicas,
        ready=stage.ready,
        updated=stage.updated,
        reason=trouble.reason if trouble else None,
        message=trouble.message if trouble else None,
        loras=tuple(
            LoraStatus(name=lora.name, replicas=lora.loaded, message=lora.reason)
            for lora in observed.loras.get(stage.process.stage.name, ())
        ),
    )
