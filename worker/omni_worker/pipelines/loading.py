"""Loads a model from its source into a diffusers pipeline, and wraps the pipeline for step mode or request mode."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import diffusers
import msgspec
import torch
import transformers
from diffusers.configuration_utils import FrozenDict

from omni_worker.config.model_source import ModelSource
from omni_worker.device.dtypes import weights_dtype
from omni_worker.errors import LoadError
from omni_worker.model_card import ServingDefaults
from omni_worker.parallel.ranks import Ranks
from omni_worker.pipelines.acceleration import compile_denoisers, shorten_single_frames
from omni_worker.pipelines.batching.batches import ProvenBatches
from omni_worker.pipelines.components import denoisers, models
from omni_worker.pipelines.encoding import PromptEncoder, UnloadedModel
from omni_worker.pipelines.interception.stepping import InterceptedPipeline
from omni_worker.pipelines.protocol import SupportsStepExecution, can_step
from omni_worker.pipelines.request_mode import RequestModePipeline

log = logging.getLogger(__name__)
NO_FOREIGN_CODE = {"trust_remote_code": False, "use_safetensors": True}
"""A model is data: neither its Python files nor pickled weights, which contain code, are loaded."""
COMPILED_BATCH_SIZES = (1, 2, 4, 8, 16, 32)  # of a compiled model, which is compiled for each size separately


class PipelineParts(Enum):
    """Which models of a pipeline are loaded. If two stages share a pipeline, each loads only its own models."""

    ALL = auto()
    TEXT_ENCODERS = auto()
    ALL_BUT_TEXT_ENCODERS = auto()


@dataclass(frozen=True)
class LoadedPipeline:
    """A pipeline on its device, ready to run; a RequestModePipeline if its requests do not run step by step."""

    pipeline: SupportsStepExecution | RequestModePipeline
    device: str


def load(
    source: ModelSource,
    step_execution: bool | None,
    *,
    concurrent: bool = True,
    dtype: str = "auto",
    compile_backend: str | None = None,
    ranks: Ranks | None = None,
    parts: PipelineParts = PipelineParts.ALL,
) -> LoadedPipeline:
    """Load `source` onto this process's device.

    dtype: `auto` means float32 on a CPU and bfloat16 on a GPU
    step_execution: None uses step mode if the pipeline can step

    Raises LoadError if the model does not exist, is broken, or cannot run in the required mode.
    """
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    at = {"revision": source.revision, "local_files_only": source.is_local}
    weights = weights_dtype(dtype, device)
    try:
        unloaded = unloaded_models(diffusers.DiffusionPipeline.load_config(source.location, **at), parts)
        pipe = diffusers.DiffusionPipeline.from_pretrained(
            source.location, dtype=weights, **dict.fromkeys(unloaded), **NO_FOREIGN_CODE, **at
        ).to(device)
        for name, configured in unloaded.items():
            vars(pipe)[name] = UnloadedModel(FrozenDict(configured(source.location, subfolder=name, **at)), weights)
    except Exception as error:  # diffusers passes on any error of any component
        raise LoadError(f"the model {source.text} cannot be loaded: {error}") from error
    if parts is PipelineParts.TEXT_ENCODERS:
        if not hasattr(pipe, "encode_prompt"):
            raise LoadError(f"{type(pipe).__name__} of {source.text} has no encode_prompt: it cannot encode on its own")
        return LoadedPipeline(PromptEncoder(pipe, _serving_defaults(source)), device)
    for model in models(pipe).values():
        shorten_single_frames(model)
    if compile_backend is not None:
        log.info("compiling %s when first called", ", ".join(compile_denoisers(pipe, compile_backend)))
    buckets = COMPILED_BATCH_SIZES if compile_backend is not None else ()
    batches = ProvenBatches(ranks, buckets)
    return LoadedPipeline(wrap_pipeline(pipe, source, step_execution, concurrent, batches), device)


def unloaded_models(index: Mapping[str, Any], parts: PipelineParts) -> dict[str, Callable[..., Any]]:
    """The models that `parts` does not include, from the `model_index.json` of a pipeline.

    Each name comes with a function that reads the model's configuration.
    """
    found: dict[str, Callable[..., Any]] = {}
    for name, entry in index.items():
        library, kind = entry if isinstance(entry, list | tuple) and len(entry) == 2 else (None, None)
        if kind and parts is PipelineParts.ALL_BUT_TEXT_ENCODERS and name.startswith("text_encoder"):
            found[name] = _transformers_config
        elif kind and parts is PipelineParts.TEXT_ENCODERS and library == "diffusers":
            load_config = getattr(getattr(diffusers, kind, None), "load_config", None)
            if load_config is not None and not issubclass(getattr(diffusers, kind), diffusers.SchedulerMixin):
                found[name] = load_config
    return found


def _transformers_config(location: str, **at: Any) -> dict[str, Any]:
    config, _ = transformers.PretrainedConfig.get_config_dict(location, **at)
    return dict(config)


def wrap_pipeline(
    pipe: Any,
    source: ModelSource,
    step_execution: bool | None,
    concurrent: bool,
    batches: ProvenBatches | None = None,
) -> SupportsStepExecution | RequestModePipeline:
    """Wrap a loaded pipeline for its mode: its own step protocol, interception, or request mode.

    Raises LoadError if `step_execution` is True and the pipeline cannot step.
    """
    is_native, refuses = can_step(pipe), getattr(pipe, "supports_step_execution", None) is False
    can_be_stepped = is_native or (bool(denoisers(pipe)) and not refuses)
    if step_execution and not can_be_stepped:
        why = "says that it does not step" if refuses else "calls no denoiser that can be intercepted"
        raise LoadError(
            f"{type(pipe).__name__} of {source.text} {why}: "
            "serve it with --no-step-execution (scheduling.mode: request)"
        )
    if is_native and step_execution is not False:
        return pipe  # type: ignore[no-any-return]
    defaults = _serving_defaults(source)
    if can_be_stepped and step_execution is not False:
        return InterceptedPipeline(pipe, defaults, concurrent, batches)
    if step_execution is None:
        log.info("%s cannot be stepped: requests run whole, one at a time", type(pipe).__name__)
    return RequestModePipeline(pipe, defaults)


def _serving_defaults(source: ModelSource) -> ServingDefaults:
    content = source.defaults() or {}
    try:
        return msgspec.convert(content.get("defaults", {}), ServingDefaults)
    except msgspec.ValidationError as error:
        raise LoadError(f"{source.defaults_file}: {error}") from error
