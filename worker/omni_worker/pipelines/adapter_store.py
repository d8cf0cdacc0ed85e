"""The LoRA adapters that are loaded into a pipeline, from which each request selects its own.

diffusers reads the files and places the layers, so that every format that it knows works here. Reading takes long, and
runs in a thread; placing the layers is quick, and happens between two steps. Requests that run continue, because an
adapter changes nothing for those that have not selected it.
"""

import copy
import logging
import re
from collections.abc import Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.nn import Module

from omni_settings.load import NO_COMPILED_ADAPTERS
from omni_worker.errors import LoadError, RequestError
from omni_worker.pipelines.adapter_layers import Selection, forget, lora_layers, select_by_row
from omni_worker.pipelines.components import has_divided_weights, models
from omni_worker.requests import LoraChoice

DOWN = re.compile(r"lora_A|lora_embedding_A|lora_down|lora\.down|lora_linear_layer\.down")
"""In the names of an adapter's weights, as diffusers converts them: the first of the two of each layer."""
ADAPTING = re.compile(r"lora|lokr|alpha")
TEXT_ENCODER = "text_encoder"
READERS = 2
"""Threads that read files, which need memory for what they have read."""
CHUNK = 1 << 24

log = logging.getLogger(__name__)


class _HasRead(Exception):
    """The pipeline has read an adapter's file, and would place its layers now."""


@dataclass(frozen=True)
class ReadAdapter:
    """An adapter in main memory: its weights by name, and what else the pipeline's `lora_state_dict` returned."""

    file: Path
    weights: dict[str, Any]
    rest: tuple[Any, ...]


def _is_compiled(model: Module) -> bool:
    """Whether torch compiles the model, or blocks of it."""
    is_whole = hasattr(model, "_orig_mod") or hasattr(vars(model).get("forward"), "_torchdynamo_orig_callable")
    return is_whole or any(module._compiled_call_impl for module in model.modules())


class AdapterStore:
    """The adapters of one pipeline. One thread calls all methods."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._scales: dict[str, float] = {}
        self._reading: dict[str, Future[ReadAdapter]] = {}
        self._readers: ThreadPoolExecutor | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The loaded adapters, in the order in which they were loaded."""
        return tuple(self._scales)

    @property
    def why_none(self) -> str | None:
        """Why the pipeline takes no adapters; None if it does."""
        if not hasattr(self._pipe, "load_lora_weights"):
            return f"{type(self._pipe).__name__} takes no LoRA adapters"
        if any(map(_is_compiled, models(self._pipe).values())):
            return NO_COMPILED_ADAPTERS
        if any(map(has_divided_weights, models(self._pipe).values())):
            return "divided weights take no LoRA adapters: serve it without --tensor-parallel-size (parallelism.tensor)"
        return None

    def load(self, name: str, file: Path, scale: float = 1.0, component: str | None = None) -> None:
        """Add the adapter in a file, which replaces one of the same name. `scale`: for requests that give none.
        `component`: the model that it adapts; None is the pipeline's first.

        Raises LoadError if the pipeline takes no adapters, or none of this kind; then nothing has changed.
        """
        self._require_support(name)
        self._place(name, self._read(name, file), scale, component)

    def start_reading(self, name: str, file: Path) -> None:
        """Read the adapter in a file in another thread. `finish` adds it. Raises LoadError as `load` does."""
        self._require_support(name)
        if self._readers is None:
            self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="adapters")
        self._reading[name] = self._readers.submit(self._read, name, file)

    def finish(self, name: str, scale: float = 1.0, component: str | None = None) -> bool:
        """Add the adapter whose reading was started. Returns False if it is not read yet. Raises LoadError as `load`
        does.
        """
        if not (reading := self._reading[name]).done():
            return False
        del self._reading[name]
        self._place(name, reading.result(), scale, component)
        return True

    def unload(self, name: str) -> None:
        """Remove an adapter. Nothing happens if there is none of this name. No request may have it selected."""
        if self._scales.pop(name, None) is not None:
            self._remove(name)
            log.info("unloaded LoRA %s", name)

    def select(self, choices: Iterable[LoraChoice]) -> Selection:
        """The adapters of a request. Raises RequestError for one that is not loaded."""
        for choice in choices:
            if choice.name not in self._scales:
                available = ", ".join(self._scales) or "none is loaded"
                raise RequestError(
                    "invalid", f"loras: there is no LoRA {choice.name!r}; there are: {available}", "loras"
                )
        return tuple((one.name, self._scales[one.name] if one.scale is None else one.scale) for one in choices)

    def _require_support(self, name: str) -> None:
        if (reason := self.why_none) is not None:
            raise LoadError(f"LoRA {name!r}: {reason}")

    def _read(self, name: str, file: Path) -> ReadAdapter:
        """Read a file as the pipeline does, with the arguments that it gives its own reader. Works in any thread."""
        reader = copy.copy(self._pipe)

        def read(*args: Any, **kwargs: Any) -> Any:
            raise _HasRead(type(reader).lora_state_dict(*args, **kwargs))

        vars(reader)["lora_state_dict"] = read
        try:
            with file.open("rb") as stream:  # safetensors maps the file, and would read it later, layer by layer
                while stream.read(CHUNK):
                    pass
            reader.load_lora_weights(
                str(file.parent), adapter_name=name, weight_name=file.name, local_files_only=True, use_safetensors=True
            )
        except _HasRead as has_read:
            weights, *rest = has_read.args[0]
            if others := [weight for weight in weights if not ADAPTING.search(weight)]:
                reason = f"it replaces weights of the model, for all requests: {', '.join(others[:3])}"
                raise self._unfit(name, file, reason) from None
            return ReadAdapter(file, weights, tuple(rest))
        except Exception as error:  # diffusers and PEFT raise anything for a file that does not fit
            raise self._unfit(name, file, error) from error
        raise LoadError(f"LoRA {name!r}: {type(self._pipe).__name__} reads adapters in a way that is not known")

    def _place(self, name: str, adapter: ReadAdapter, scale: float, component: str | None) -> None:
        """Add the layers of an adapter to the models that are loaded here."""
        self.unload(name)
        parts = {part: vars(self._pipe).get(part) for part in self._pipe._lora_loadable_modules}
        absent = [part for part, model in parts.items() if not isinstance(model, Module)]
        weights = {key: weight for key, weight in adapter.weights.items() if key.partition(".")[0] not in absent}
        layers = {key.rpartition(match[0])[0] for key in weights if (match := DOWN.search(key))}
        try:
            if component is not None and parts.get(component) is None:
                raise LoadError(f"component: the pipeline has no {component}; leave component out")
            elsewhere = [part for part in absent if parts[part] is not None]  # another stage has loaded them
            if not layers and not elsewhere:
                raise LoadError("it has no weights for its models")
            if all(part.startswith(TEXT_ENCODER) for part in elsewhere):
                self._load(name, weights, adapter.rest, component)
            else:
                self._load_into_text_encoders(name, weights, adapter.rest, set(parts) - set(absent))
            self._check_complete(name, layers)
        except Exception as error:  # diffusers and PEFT raise anything for a file that does not fit
            self._remove(name)
            raise self._unfit(name, adapter.file, error) from error
        for model in models(self._pipe).values():
            select_by_row(model)
        self._scales[name] = scale
        log.info("loaded LoRA %s from %s", name, adapter.file)

    def _load(self, name: str, weights: dict[str, Any], rest: tuple[Any, ...], component: str | None) -> None:
        """Let the pipeline place weights that have been read."""
        into = {} if component is None else {f"load_into_{component}": True}
        vars(self._pipe)["lora_state_dict"] = lambda *args, **kwargs: (weights, *rest)
        try:
            self._pipe.load_lora_weights({}, adapter_name=name, **into)
        finally:
            del vars(self._pipe)["lora_state_dict"]

    def _load_into_text_encoders(
        self, name: str, weights: dict[str, Any], rest: tuple[Any, ...], encoders: set[str]
    ) -> None:
        """The same for a pipeline without its denoiser. An adapter need not have weights for each text encoder."""
        *alphas, metadata = rest
        for encoder in sorted(encoders):
            if any(key.startswith(f"{encoder}.") for key in weights):
                self._pipe.load_lora_into_text_encoder(
                    weights,
                    network_alphas=alphas[0] if alphas else None,
                    text_encoder=getattr(self._pipe, encoder),
                    prefix=encoder,
                    lora_scale=self._pipe.lora_scale,
                    adapter_name=name,
                    metadata=metadata,
                    _pipeline=self._pipe,
                )

    def _unfit(self, name: str, file: Path, reason: Exception | str) -> LoadError:
        return LoadError(f"LoRA {name!r}: {file} does not fit {type(self._pipe).__name__}: {reason}")

    def _check_complete(self, name: str, wanted: Collection[str]) -> None:
        """Raises LoadError if a model that is loaded here has no layer for some of an adapter's weights.

        diffusers only warns, and the adapter of another model may happen to fit in some of its layers.
        """
        layers = [layer for model in models(self._pipe).values() for layer in lora_layers(model)]
        found = sum(name in layer.scaling for layer in layers)
        if found < len(wanted):
            raise LoadError(f"the model has {found} of the {len(wanted)} layers that it adapts")

    def _remove(self, name: str) -> None:
        forget(name)
        for model in models(self._pipe).values():
            if name in getattr(model, "peft_config", {}):
                model.delete_adapters(name) if hasattr(model, "delete_adapters") else model.delete_adapter(name)
