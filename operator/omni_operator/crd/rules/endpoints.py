"""Rules about stages that are servers outside the pipeline. They have an endpoint, and nothing about replicas."""

from collections.abc import Iterable

from omni_operator.crd.problems import Problem
from omni_operator.crd.rules.rule import Validation, in_cel, is_unset
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.crd.spec.stage import ENDPOINT_ENGINE, Stage

STAGE = "spec.stages[]"
OF_ENDPOINTS = ("name", "engine", "endpoint", "input", "system", "max_tokens")
"""The fields of a stage that is a server."""
OF_REPLICAS = {name: field for name, field in Stage.model_fields.items() if name not in OF_ENDPOINTS}
WITHOUT_SCHEMA = ("affinity", "template")
"""Fields that CEL cannot look into."""
NO_REPLICAS = "is about replicas, and a server outside the pipeline has none here; remove it"


@in_cel(
    Validation(
        STAGE,
        f"self.engine != '{ENDPOINT_ENGINE}' || has(self.endpoint)",
        f"required for the engine {ENDPOINT_ENGINE}: the url and the model of the server",
        ".endpoint",
    ),
    Validation(
        STAGE,
        f"self.engine == '{ENDPOINT_ENGINE}' || !has(self.endpoint)",
        f"belongs to the engine {ENDPOINT_ENGINE}; remove it, or set the engine",
        ".endpoint",
    ),
    *(
        Validation(
            STAGE,
            f"self.engine != '{ENDPOINT_ENGINE}' || {is_unset(f'self.{field.alias or name}', field)}",
            NO_REPLICAS,
            f".{field.alias or name}",
        )
        for name, field in OF_REPLICAS.items()
        if name not in WITHOUT_SCHEMA
    ),
)
def endpoints_have_no_replicas(pipeline: OmniPipeline) -> Iterable[Problem]:
    for index, stage in enumerate(pipeline.spec.stages):
        path = f"spec.stages[{index}]"
        if not stage.is_endpoint:
            if stage.endpoint is not None:
                message = f"belongs to the engine {ENDPOINT_ENGINE}, and {stage.name!r} is {stage.engine}"
                yield Problem(f"{path}.endpoint", f"{message}; remove it, or set the engine")
            continue
        if stage.endpoint is None:
            yield Problem(f"{path}.endpoint", "is missing; expected the url and the model of the server")
        for name, field in OF_REPLICAS.items():
            if getattr(stage, name) != field.get_default(call_default_factory=True):
                message = f"is about replicas, and {stage.name!r} is a server outside the pipeline, which has none here"
                yield Problem(f"{path}.{field.alias or name}", f"{message}; remove it")


@in_cel(
    Validation(
        "spec",
        "self.head.localReplicas == 0 || (has(self.head.stage)"
        f" ? !self.stages.exists(stage, stage.name == self.head.stage && stage.engine == '{ENDPOINT_ENGINE}')"
        f" : self.stages.exists(stage, stage.engine != '{ENDPOINT_ENGINE}'))",
        "a server outside the pipeline has no replicas; set it to 0, or head.stage to another stage",
        ".head.localReplicas",
    )
)
def heads_run_no_endpoints(pipeline: OmniPipeline) -> Iterable[Problem]:
    head = pipeline.spec.head
    names = [stage.name for stage in pipeline.spec.stages]
    if head.local_replicas == 0 or (head.stage is not None and head.stage not in names):
        return
    stage = pipeline.spec.stages[pipeline.head_stage]
    if stage.is_endpoint:
        yield Problem(
            "spec.head.localReplicas",
            f"is {head.local_replicas}, and {stage.name!r} is a server outside the pipeline, which has no replicas; set"
            " it to 0, or head.stage to another stage",
        )
