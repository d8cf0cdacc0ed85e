"""Loads a model from its source into a diffusers pipeline, and wraps the pipeline for step mode or request mode."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import msgspec
import torch
import transformers
from diffusers.configuration_utils import FrozenDict

from omni_settings.load import LoadSettings
from omni_settings.model_index import ModelIndex, parse_model_index
from omni_settings.parallelism import UNDIVIDED, ModelParallelism
from omni_worker.config.hub_proxy import require_usable_proxies
from omni_worker.config.lora_source import LoraSource
from omni_worker.config.model_source import ModelSource
from omni_worker.errors import LoadError, RequestError
from omni_worker.model_card import ServingDefaults
from omni_worker.parallel.ranks import Ranks
from omni_worker.pipelines.acceleration import save_vae_memory, set_attention, shorten_single_frames
from omni_worker.pipelines.adapter_store import AdapterStore
from omni_worker.pipelines.batching.batches import ProvenBatches
from omni_worker.pipelines.batching.parallel_models import ParallelModels
from omni_worker.pipelines.compilation import compile_denoisers
from omni_worker.pipelines.compile_cache import CompileCache
from omni_worker.pipelines.components import denoisers, models
from omni_worker.pipelines.context_parallel import divide_sequences
from omni_worker.pipelines.encoding import PromptEncoder, UnloadedModel
from omni_worker.pipelines.fit import require_fit
from omni_worker.pipelines.interception.stepping import InterceptedPipeline
from omni_worker.pipelines.load_arguments import (
    DEFAULT,
    SAFE_WEIGHTS,
    PipelineParts,
    code_arguments,
    component_dtypes,
    quantized_components,
    unloaded_models,
)
from omni_worker.pipelines.modular_loading import code_of_blocks, load_modular
from omni_worker.pipelines.offload import ComponentOffload, place
from omni_worker.pipelines.protocol import SupportsStepExecution, can_step
from omni_worker.pipelines.quantization import require_libraries
from omni_worker.pipelines.request_mode import RequestModePipeline
from omni_worker.pipelines.tensor_parallel import divisible_kinds, load_divided
from omni_worker.requests import NO_CACHE, CacheSettings

log = logging.getLogger(__name__)
DEFAULT_SETTINGS = LoadSettings()
CACHING_BACKEND = "inductor"
COMPILED_BATCH_SIZES = (1, 2, 4, 8, 16, 32)  # of a compiled model, which is compiled for each size separately


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
    settings: LoadSettings = DEFAULT_SETTINGS,
    ranks: Ranks | None = None,
    parts: PipelineParts = PipelineParts.ALL,
    loras: Sequence[LoraSource] = (),
    cache: CacheSettings = NO_CACHE,
    prompt_cache_bytes: int = 0,
    compile_cache: str | None = None,
    parallelism: ModelParallelism = UNDIVIDED,
) -> LoadedPipeline:
    """Load `source` onto this process's device.

    step_execution: None uses step mode if the pipeline can step
    loras: the adapters that requests can select
    cache: of requests that choose none
    prompt_cache_bytes: how many bytes of text encoders' results to keep
    compile_cache: the folder that keeps what torch compiles
    parallelism: how several of the ranks compute one call of a denoiser together

    Raises LoadError if the model or an adapter does not exist, is broken, or cannot run in the required mode.
    """
    require_libraries(settings)
    if settings.compile is not None and cache.is_inside_model:
        raise LoadError(
            f"--cache {cache.mode}: diffusers' caches run models that are not compiled; leave out compile of --load "
            "(load.compile), or use --cache skip"
        )
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if parallelism.ring > 1 and device == "cpu":
        raise LoadError(f"{parallelism.flags}: its attention kernels need a GPU: use --ulysses-degree")
    if not source.is_local:
        require_usable_proxies()
    at = {"revision": source.revision, "local_files_only": source.is_local}
    try:
        index = read_index(source, **at)
        trusted = code_arguments(settings, source, index)
        dtypes = component_dtypes(settings, index, device)
        unloaded = unloaded_models(source, index, parts)
        divisible = divisible_kinds(index, unloaded, settings, parallelism)
        require_fit(source, index, settings, unloaded, divisible, parallelism.tensor)
        quantized = quantized_components(settings, source, index, dtypes, unloaded)

        def load_component(name: str, kind: Any, **more: Any) -> Any:
            dtype, found = dtypes.get(name, dtypes[DEFAULT]), source.place_of(name, index.components[name])
            where = {"subfolder": found.subfolder, "revision": found.revision, "local_files_only": found.is_local}
            return kind.from_pretrained(found.location, dtype=dtype, **SAFE_WEIGHTS, **where, **more)

        divided = load_divided(divisible, parallelism, ranks, device, load_component) if ranks and divisible else {}
        if index.is_modular:
            made = {**quantized, **divided}
            pipe = load_modular(source, index, dtypes, made, settings.trust_remote_code, **at)
        else:
            pipe = diffusers.DiffusionPipeline.from_pretrained(
                source.location, dtype=dtypes, **dict.fromkeys(unloaded), **divided, **quantized, **trusted, **at
            )
        offload = place(pipe, device, settings.offload)
        for name, configured in unloaded.items():
            dtype = dtypes.get(name, dtypes[DEFAULT])
            vars(pipe)[name] = UnloadedModel(FrozenDict(configured(source.location, subfolder=name, **at)), dtype)
    except LoadError:
        raise
    except Exception as error:  # diffusers passes on any error of any component
        raise LoadError(f"the model {source.text} cannot be loaded: {error}") from error
    if parts is PipelineParts.TEXT_ENCODERS:
        if not hasattr(pipe, "encode_prompt"):
            raise LoadError(f"{type(pipe).__name__} of {source.text} has no encode_prompt: it cannot encode on its own")
        encoder = PromptEncoder(pipe, _serving_defaults(source), offload, prompt_cache_bytes)
        return LoadedPipeline(_with_adapters(encoder, loras), device)
    for model in models(pipe).values():
        shorten_single_frames(model)
    _configure(pipe, settings)
    buckets: tuple[int, ...] = ()
    if settings.compile is not None:
        if compile_cache is not None and settings.compile.backend == CACHING_BACKEND:
            CompileCache(Path(compile_cache), source.digest).start(writes=ranks is None or ranks.rank == 0)
        compiled = compile_denoisers(pipe, settings.compile.backend)
        log.info("compiling %s when first called", ", ".join((*compiled.regional, *compiled.whole)))
        buckets = COMPILED_BATCH_SIZES if compiled.whole else ()
    parallel = None
    if ranks is not None and parallelism.ranks > 1:
        if step_execution is False or not _can_be_intercepted(pipe):
            raise LoadError(
                f"{type(pipe).__name__} of {source.text} does not run by our own steps, so several devices cannot "
                f"compute its calls together: leave out {parallelism.flags}"
            )
        parallel = ParallelModels(parallelism.ranks, {name: {} for name in divided})
        if parallelism.divides_sequences:
            parallel = divide_sequences(pipe, parallelism, ranks, device)
    batches = ProvenBatches(ranks, buckets, settings.compile is not None, parallel)
    pipeline = wrap_pipeline(pipe, source, step_execution, concurrent, batches, cache, offload, prompt_cache_bytes)
    return LoadedPipeline(_with_adapters(pipeline, loras), device)


def read_index(source: ModelSource, **at: Any) -> ModelIndex:
    """The index of a pipeline; if it has none of a classic one, that of a modular one. Raises OSError or ValueError."""
    try:
        return parse_model_index(diffusers.DiffusionPipeline.load_config(source.location, **at))
    except OSError as error:
        try:
            index = parse_model_index(diffusers.ModularPipeline.load_config(source.location, **at))
        except OSError:
            raise error from None
    return replace(index, code={**index.code, **code_of_blocks(source, **at)})


def _configure(pipe: Any, settings: LoadSettings) -> None:
    """Apply the settings of loaded models. Raises LoadError, naming the setting."""
    try:
        save_vae_memory(pipe, settings.vae)
    except ValueError as error:
        raise LoadError(f"load.vae: {error}") from error
    if settings.attention is None:
        return
    try:
        set_attention(pipe, settings.attention)
    except Exception as error:  # a missing library, a device that is too old, a kernel that cannot be downloaded
        raise LoadError(f"load.attention: {error}") from error


def _with_adapters(pipeline: Any, loras: Sequence[LoraSource]) -> Any:
    """The pipeline with these adapters. Its card names them, and says whether more can be added. Raises LoadError."""
    adapters: AdapterStore | None = getattr(pipeline, "adapters", None)
    if adapters is None or adapters.why_none is not None:
        if loras:
            reason = adapters.why_none if adapters else f"{type(pipeline).__name__} takes no LoRA adapters"
            raise LoadError(f"--lora {loras[0].name}: {reason}")
        return pipeline
    for lora in loras:
        adapters.load(lora.name, lora.find(), lora.scale, lora.component)
    pipeline.card = msgspec.structs.replace(pipeline.card, takes_loras=True, loras=adapters.names)
    return pipeline


def wrap_pipeline(
    pipe: Any,
    source: ModelSource,
    step_execution: bool | None,
    concurrent: bool,
    batches: ProvenBatches | None = None,
    cache: CacheSettings = NO_CACHE,
    offload: ComponentOffload | None = None,
    prompt_cache_bytes: int = 0,
) -> SupportsStepExecution | RequestModePipeline:
    """Wrap a loaded pipeline for its mode: its own step protocol, interception, or request mode.

    Raises LoadError if `step_execution` is True and the pipeline cannot step, or if nothing sees the model calls that
    `cache` is to skip.
    """
    is_native, can_be_intercepted = can_step(pipe), _can_be_intercepted(pipe)
    if step_execution and not is_native and not can_be_intercepted:
        why = "calls no denoiser that can be intercepted" if denoisers(pipe) == [] else "says that it does not step"
        raise LoadError(
            f"{type(pipe).__name__} of {source.text} {why}: "
            "serve it with --no-step-execution (scheduling.mode: request)"
        )
    is_intercepted = can_be_intercepted and step_execution is not False
    if cache.mode != "none" and not is_intercepted:
        raise LoadError(
            f"{type(pipe).__name__} of {source.text} does not run by our own steps, so no calls can be skipped: "
            "leave out --cache (cache)"
        )
    if is_native and step_execution is not False:
        return pipe  # type: ignore[no-any-return]
    defaults = _serving_defaults(source)
    if is_intercepted:
        try:
            return InterceptedPipeline(pipe, defaults, concurrent, batches, cache, offload, prompt_cache_bytes)
        except RequestError as error:
            raise LoadError(f"{type(pipe).__name__} of {source.text}: {error.message} (--cache)") from error
    if step_execution is None:
        log.info("%s cannot be stepped: requests run whole, one at a time", type(pipe).__name__)
    return RequestModePipeline(pipe, defaults)


def _can_be_intercepted(pipe: Any) -> bool:
    """Whether the pipeline's own call can run step by step."""
    refuses = getattr(pipe, "supports_step_execution", None) is False
    return not can_step(pipe) and bool(denoisers(pipe)) and not refuses


def _serving_defaults(source: ModelSource) -> ServingDefaults:
    content = source.defaults() or {}
    try:
        return msgspec.convert(content.get("defaults", {}), ServingDefaults)
    except msgspec.ValidationError as error:
        raise LoadError(f"{source.defaults_file}: {error}") from error
