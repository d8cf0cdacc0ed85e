"""Rules about the processes of a replica, and what each of them computes."""

import json
from collections.abc import Iterable

from omni_operator.crd.problems import Problem
from omni_operator.crd.rules.rule import Validation, in_cel
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_settings.parallelism import (
    ATTENTION,
    CACHE,
    COMPILE,
    DIVISIBLE_ATTENTION,
    EITHER,
    LORAS,
    OFFLOAD,
    QUANTIZATION,
    RING,
    RING_ATTENTION,
    TRANSFORMERS,
    WHOLE_CALL_CACHES,
)

STAGE = "spec.stages[]"
OF_MODEL = ("ulysses", "ring", "tensor")
"""The fields that let several devices compute a call together."""
DIVIDES_CALLS = " || ".join(f"self.parallelism.{key} > 1" for key in OF_MODEL)
"""Whether several devices compute a call together, in CEL."""
NO_DENOISER = "is for diffusion stages; use parallelism.pipeline, which spreads the layers of a language model"
RUNS_WHOLE = "a request that runs whole cannot be divided; set scheduling.mode to step, or"


@in_cel(
    Validation(
        STAGE,
        "!has(self.accelerator) || self.accelerator.count == "
        + " * ".join(f"self.parallelism.{key}" for key in ("cfg", "pipeline", *OF_MODEL)),
        "each process of a replica uses one device; set accelerator.count to the product of the values of parallelism",
        ".parallelism",
    ),
    *(
        Validation(
            STAGE,
            f"self.parallelism.{key} == 1 || self.scheduling.mode == 'step'",
            f"{RUNS_WHOLE} {key} to 1",
            f".parallelism.{key}",
        )
        for key in ("cfg", *OF_MODEL)
    ),
)
def devices_are_used(pipeline: OmniPipeline) -> Iterable[Problem]:
    for index, stage in enumerate(pipeline.spec.stages):
        path, divided = f"spec.stages[{index}].parallelism", stage.parallelism
        key = "pipeline" if stage.is_autoregressive else "cfg"
        ranks, count = divided.processes, stage.accelerator.count if stage.accelerator else None
        if count is not None and count != ranks:
            if divided.of_model.ranks > 1:
                yield Problem(
                    path,
                    f"makes {ranks} processes (the product of its values), and accelerator.count is {count}: each"
                    f" process of a replica uses one device; set the count to {ranks}",
                )
            else:
                yield Problem(
                    f"{path}.{key}",
                    f"is {ranks}, and accelerator.count is {count}: each process of a replica uses one device; set both"
                    " to the same number",
                )
        for key in ("cfg", *OF_MODEL):
            if (value := getattr(divided, key)) > 1 and stage.scheduling.mode == "request":
                yield Problem(f"{path}.{key}", f"is {value}, and scheduling.mode is request: {RUNS_WHOLE} {key} to 1")


@in_cel(
    *(
        Validation(
            STAGE,
            f"self.engine == 'diffusion' || self.parallelism.{key} == 1",
            NO_DENOISER,
            f".parallelism.{key}",
        )
        for key in OF_MODEL
    ),
    Validation(
        STAGE,
        " + ".join(f"(self.parallelism.{key} > 1 ? 1 : 0)" for key in OF_MODEL) + " <= 1",
        EITHER.text,
        f".{EITHER.path}",
    ),
    Validation(
        STAGE,
        "self.parallelism.ring == 1 || has(self.load) && has(self.load.attention)"
        f" && self.load.attention in {json.dumps(RING_ATTENTION)}",
        RING.text,
        f".{RING.path}",
    ),
    Validation(
        STAGE,
        "self.parallelism.tensor == 1 || !has(self.loras) || size(self.loras) == 0",
        LORAS.text,
        ".loras",
    ),
    Validation(
        STAGE,
        "self.parallelism.tensor == 1 || !has(self.load) || !has(self.load.quantization)"
        f" || !{json.dumps(TRANSFORMERS)}.exists(name, name in self.load.quantization)",
        QUANTIZATION.text,
        ".load.quantization",
    ),
    Validation(
        STAGE,
        f"!({DIVIDES_CALLS}) || !has(self.load) || self.load.offload == 'none'",
        OFFLOAD.text,
        ".load.offload",
    ),
    Validation(
        STAGE,
        f"!({DIVIDES_CALLS}) || !has(self.load) || !has(self.load.compile)",
        COMPILE.text,
        ".load.compile",
    ),
    Validation(
        STAGE,
        f"!({DIVIDES_CALLS}) || !has(self.cache) || self.cache.mode in {json.dumps(WHOLE_CALL_CACHES)}",
        CACHE.text,
        ".cache",
    ),
    Validation(
        STAGE,
        "self.parallelism.ulysses == 1 || !has(self.load) || !has(self.load.attention)"
        f" || self.load.attention in {json.dumps(DIVISIBLE_ATTENTION)}",
        ATTENTION.text,
        ".load.attention",
    ),
)
def calls_can_be_divided(pipeline: OmniPipeline) -> Iterable[Problem]:
    for index, stage in enumerate(pipeline.spec.stages):
        path = f"spec.stages[{index}]"
        for key in OF_MODEL:
            if getattr(stage.parallelism, key) > 1 and stage.is_autoregressive:
                yield Problem(f"{path}.parallelism.{key}", NO_DENOISER)
        mode = stage.cache.mode if stage.cache else "none"
        for conflict in stage.parallelism.of_model.conflicts(stage.load, mode, bool(stage.loras)):
            yield Problem(f"{path}.{conflict.path}", conflict.text)
