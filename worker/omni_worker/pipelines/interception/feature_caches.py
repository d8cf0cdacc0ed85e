"""diffusers' caches inside a transformer, of one request: what blocks or attention gave in one step answers in others.

The hooks of diffusers' caches keep state in the model, and decide once for a whole batch. So each request has them in
its own copy of the model (`model_copies`): its state is its own, and ends with it. Its calls run alone, between those
of others. It makes the same decisions on the same bits, whatever runs beside it.

Where a pipeline calls a model several times in a step, as for guidance, each of these calls has a state of its own. The
hooks of most caches take it from the name that the pipeline gives a call (`cache_context`). Where it gives none, and
for hooks that have a single state, the call's place in the step tells them apart.
"""

import functools
import logging
import math
import re
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
    TextKVCacheConfig,
)
from diffusers.hooks import ModelHook
from diffusers.hooks._common import _ALL_TRANSFORMER_BLOCK_IDENTIFIERS, _ATTENTION_CLASSES
from diffusers.hooks.hooks import CacheContext, StateManager
from diffusers.hooks.mag_cache import FLUX_MAG_RATIOS, nearest_interp
from diffusers.models.cache_utils import CacheMixin
from torch.nn import Module, ModuleList

from omni_worker.errors import RequestError
from omni_worker.pipelines.components import denoisers, models
from omni_worker.pipelines.interception.model_copies import ModelCopy
from omni_worker.pipelines.interception.pipeline_copies import MODEL_COPIES, ORIGINAL
from omni_worker.pipelines.protocol import StepState
from omni_worker.requests import CacheSettings

logging.getLogger("diffusers.hooks.faster_cache").setLevel(logging.ERROR)  # it logs a warning for every request
HOOKS = "_diffusers_hook"
TIMED = ("faster", "pyramid-attention")
"""The modes whose hooks ask for the timestep."""


class FeatureCaches:
    """The caches of one request: one in each transformer of its pipeline copy, until `close`.

    Raises RequestError if diffusers has no such cache for the pipeline's models.
    """

    def __init__(self, pipe: Any, settings: CacheSettings, state: StepState) -> None:
        original, copies = vars(pipe)[ORIGINAL], vars(pipe)[MODEL_COPIES]
        names, all_models = denoisers(original), models(original)
        cached = {name: copies[id(all_models[name])] for name in names if isinstance(all_models[name], CacheMixin)}
        if not cached:
            raise _unusable(settings, f"none of its models ({', '.join(names)}) has diffusers' caches")
        if settings.mode in TIMED and not hasattr(type(pipe), "current_timestep"):
            raise _unusable(settings, f"{type(pipe).__name__} does not tell its timestep")
        if settings.mode == "mag" and len(cached) > 1:
            raise _unusable(settings, f"it counts the steps of one transformer, and there are {', '.join(cached)}")
        self._caches = [FeatureCache(pipe, own, settings, state) for own in cached.values()]

    def close(self) -> None:
        """Free what the caches keep. The models cannot be called after it."""
        for cache in self._caches:
            cache.close()


class FeatureCache:
    """The cache in one model of a request's pipeline copy."""

    def __init__(self, pipe: Any, own: ModelCopy, settings: CacheSettings, state: StepState) -> None:
        model: Any = own.root
        if any(HOOKS in vars(module) for module in model.modules() if module is not model):
            raise _unusable(
                settings,
                f"other hooks of diffusers run in its {type(model).__name__} (load.offload: group, or parallelism)",
            )
        self._pipe, self._model, self._state = weakref.ref(pipe), weakref.ref(model), state
        self._mode = settings.mode
        self._step, self._index = -1, 0
        self._timestep = math.inf
        self._single_states: dict[tuple[int, int], Any] = {}
        self._has_begun: set[int] = set()
        self._config = self._config_of(model, settings)
        try:
            model.enable_cache(self._config)
        except (ValueError, IndexError) as error:
            raise _unusable(settings, f"it does not know the blocks of {type(model).__name__} ({error})") from error
        if not any(HOOKS in vars(module) for module in model.modules() if module is not model):
            raise _unusable(settings, f"it finds nothing to cache in {type(model).__name__}")
        self._hooks = list(_hooks(model))
        self._managers = _managers(self._hooks)
        forward = vars(model)["forward"]
        vars(model)["forward"] = functools.update_wrapper(functools.partial(self._call, forward), forward)
        own.keep_state()

    def close(self) -> None:
        """Free what the hooks keep, and part them from their modules, which are freed at once then."""
        model = self._model()
        if model is None:
            return
        for hook in self._hooks:
            hook.reset_state(model)
        self._hooks, self._single_states = [], {}
        for module in model.modules():
            if (registry := vars(module).pop(HOOKS, None)) is None:
                continue
            vars(module).pop("forward", None)
            for hook in registry.hooks.values():
                hook.fn_ref = None

    def _call(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._begin_call(kwargs.get("hidden_states", args[0] if args else None))
        return forward(*args, **kwargs)

    def _begin_call(self, latents: torch.Tensor | None) -> None:
        """Select the state of the call that the pipeline makes now."""
        self._index = self._index + 1 if self._state.step == self._step else 0
        self._step = self._state.step
        if not self._has_begun:
            self._fit(latents)
        for manager in self._managers:
            if manager._context is None or isinstance(manager._context, OwnContext):
                manager.set_context(OwnContext(str(self._index)))
        for i, hook in enumerate(self._hooks):
            if hasattr(hook, "state"):
                kept = self._single_states.setdefault((i, self._index), type(hook.state)())
                hook.state = kept
        # FasterCache takes an earlier result for granted once the timestep is in its range, so the first is outside.
        is_first = self._index not in self._has_begun
        self._timestep = math.inf if is_first or self._mode not in TIMED else float(self._current_timestep())
        self._has_begun.add(self._index)

    def _current_timestep(self) -> Any:
        timestep = getattr(self._pipe(), "_current_timestep", None)
        return math.inf if timestep is None else timestep

    def _fit(self, latents: torch.Tensor | None) -> None:
        """Tell the hooks what only the first call shows: the number of steps, and the form of the calls."""
        pipe = self._pipe()
        if isinstance(self._config, MagCacheConfig):
            scheduler: Any = getattr(pipe, "scheduler", None)
            steps = len(scheduler.timesteps) - (getattr(scheduler, "begin_index", None) or 0)
            assert self._config.mag_ratios is not None
            self._config.num_inference_steps = steps
            self._config.mag_ratios = nearest_interp(self._config.mag_ratios, steps)
        elif isinstance(self._config, FasterCacheConfig) and latents is not None:
            has_both = getattr(pipe, "do_classifier_free_guidance", False) and len(latents) % 2 == 0
            channels = getattr(getattr(self._model(), "config", None), "in_channels", None)
            for hook in self._hooks:
                hook.is_guidance_distilled = not (has_both and latents.dim() in (4, 5))
                if hasattr(hook, "tensor_format"):
                    video = "BCFHW" if latents.shape[1] == channels else "BFCHW"
                    hook.tensor_format = "BCHW" if latents.dim() == 4 else video

    def _config_of(self, model: Any, settings: CacheSettings) -> Any:
        timestep = weakref.WeakMethod(self._read_timestep)

        def current_timestep() -> Any:
            read = timestep()
            assert read is not None, "the request has ended"
            return read()

        match settings.mode:
            case "first-block":
                return FirstBlockCacheConfig(settings.threshold)
            case "taylor-seer":
                names = [re.escape(name) for name in _attention_names(model)]
                return TaylorSeerCacheConfig(
                    settings.interval,
                    max_order=settings.order,
                    taylor_factors_dtype=model.dtype,
                    cache_identifiers=names,
                )
            case "mag":
                ratios = _ratios(model, settings)
                return MagCacheConfig(
                    settings.threshold,
                    settings.max_consecutive,
                    num_inference_steps=len(ratios),  # until the number is known
                    mag_ratios=ratios,
                )
            case "faster":
                return FasterCacheConfig(
                    spatial_attention_block_skip_range=settings.interval,
                    temporal_attention_block_skip_range=settings.interval,
                    attention_weight_callback=lambda _: 0.5,
                    current_timestep_callback=current_timestep,
                )
            case "pyramid-attention":
                return PyramidAttentionBroadcastConfig(
                    spatial_attention_block_skip_range=settings.interval,
                    temporal_attention_block_skip_range=settings.interval,
                    cross_attention_block_skip_range=settings.interval,
                    current_timestep_callback=current_timestep,
                )
            case "text-kv":
                return TextKVCacheConfig()
        raise _unusable(settings, "there is no such cache")

    def _read_timestep(self) -> float:
        return self._timestep


class OwnContext(CacheContext):  # type: ignore[misc]
    """The name of a call to which the pipeline gives none."""


def _hooks(model: Module) -> Iterator[Any]:
    """The hooks in a model that keep state."""
    for module in model.modules():
        registry = vars(module).get(HOOKS)
        for hook in registry.hooks.values() if registry is not None else ():
            if hook._is_stateful:
                yield hook


def _managers(hooks: list[ModelHook]) -> list[StateManager]:
    found = {id(one): one for hook in hooks for one in vars(hook).values() if isinstance(one, StateManager)}
    return list(found.values())


def _attention_names(model: Module) -> list[str]:
    """The attention layers in a model's blocks. diffusers' own patterns miss those that are numbered, like Wan's."""
    lists = [name for name, child in model.named_children() if isinstance(child, ModuleList)]
    blocks = tuple(f"{name}." for name in lists if name in _ALL_TRANSFORMER_BLOCK_IDENTIFIERS)
    layers = [name for name, one in model.named_modules() if isinstance(one, _ATTENTION_CLASSES)]
    return [name for name in layers if name.startswith(blocks)]


def _ratios(model: Module, settings: CacheSettings) -> Any:
    if settings.ratios:
        return list(settings.ratios)
    if not type(model).__name__ == "FluxTransformer2DModel":
        raise _unusable(
            settings, f"those of a {type(model).__name__} are not known: measure them, and set cache.ratios"
        )
    return FLUX_MAG_RATIOS


def _unusable(settings: CacheSettings, reason: str) -> RequestError:
    return RequestError("invalid", f"cache: {settings.mode} cannot be used with this model: {reason}", "cache")
