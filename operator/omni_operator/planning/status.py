"""The status of a pipeline: counts and conditions, from its spec and what was observed in the cluster. Pure."""

from dataclasses import replace

from omni_operator.crd.objects import Object
from omni_operator.crd.problems import InvalidSpec
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.crd.status_types import LoraStatus, StageStatus, Status
from omni_operator.planning.conditions import (
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
        stages=tuple(stage_status(stage, observed) for stage in stages),
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
