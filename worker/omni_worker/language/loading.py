"""Loads a causal language model, from wherever its source says, and sees that it can be batched.

A folder or repository of transformers holds the model itself. A folder of diffusers names the one it brings in its
`omni.json`: `"language": {"subfolder": "thinker", "max_tokens": 16}`.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
import transformers
from transformers.cache_utils import get_layer_types_and_kwargs

from omni_worker.config.model_source import ModelSource
from omni_worker.device.dtypes import weights_dtype
from omni_worker.errors import LoadError
from omni_worker.language import attention
from omni_worker.language.batch_check import batching_error
from omni_worker.language.cache import BLOCK, SlotCache
from omni_worker.language.model import SlotModel
from omni_worker.language.text import TextTokenizer
from omni_worker.parallel.chain import Chain

log = logging.getLogger(__name__)
LAYERS = {"full_attention": False, "sliding_attention": True, "chunked_attention": True}
"""The kinds of layers whose cache is keys and values: whether one sees a window only."""
MEMORY_SHARE = 0.8
CONTAINER = Path("/sys/fs/cgroup")
IGNORED = ("repetition_penalty", "min_p", "typical_p", "no_repeat_ngram_size", "suppress_tokens", "min_new_tokens")


class LanguageSection(msgspec.Struct, frozen=True, kw_only=True):
    """What `omni.json` says of the language model that a folder of diffusers brings."""

    subfolder: str = ""
    max_tokens: int | None = None


@dataclass(frozen=True)
class GenerationDefaults:
    """How a model writes where a request says nothing.

    ends: the tokens with which it ends an answer
    max_tokens: of an answer; None where the folder does not say
    """

    ends: frozenset[int]
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int | None = None


@dataclass(frozen=True)
class LanguageModel:
    """A model on its device. `name` is its class; `context_length` counts prompt and answer, None has no bound."""

    name: str
    slots: SlotModel
    language: TextTokenizer
    defaults: GenerationDefaults
    context_length: int | None


def load(source: ModelSource, dtype: str = "auto", chain: Chain | None = None) -> LanguageModel:
    """Load `source` onto this process's device, in `dtype`: by default float32 on a CPU and bfloat16 on a GPU.

    A rank of a `chain` keeps its own layers of it. Raises LoadError: it is not there, is broken, or is no model that
    can be batched here.
    """
    transformers.utils.logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weights = weights_dtype(dtype, device)
    settings = _settings(source)
    place: dict[str, Any] = {
        "subfolder": settings.subfolder,
        "revision": source.revision,
        "local_files_only": source.is_local,
    }
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source.location, **place)
        model = transformers.AutoModelForCausalLM.from_pretrained(source.location, dtype=weights, **place)
    except Exception as error:  # transformers raises whatever the part that failed raised
        raise LoadError(f"the language model of {source.text} cannot be loaded: {error}") from error
    return wrap(model.to(device), tokenizer, settings.max_tokens, chain=chain)


def wrap(
    model: Any,
    tokenizer: Any,
    max_tokens: int | None = None,
    max_bytes: int | None = None,
    chain: Chain | None = None,
) -> LanguageModel:
    """A loaded model over a cache of slots that takes at most `max_bytes`: by default most of what is free.

    Raises LoadError where the model cannot be batched so, or not be spread over the ranks of `chain`.
    """
    name, config = type(model).__name__, model.config.get_text_config(decoder=True)
    cache = SlotCache(_layers(name, model), model.device)
    slots = SlotModel(model.eval(), cache, chain)
    own = model.config._attn_implementation

    def switch() -> None:
        _attend_by_slots(name, model, cache)
        slots.divide()

    try:
        difference = batching_error(model, slots, config.vocab_size, switch)
    except LoadError:
        raise
    except Exception as error:
        raise LoadError(f"{name} cannot be run over a cache of slots: {error}") from error
    if difference is not None:
        raise LoadError(
            f"{name} gives other scores in a batch than alone ({difference:.0%} off, attention {own!r}): "
            "its state is more than the keys and values of the tokens before"
        )
    room = (max_bytes or _free_bytes(model.device)) // cache.token_bytes
    cache.max_tokens = slots.chain.least(room)  # who gives up a row is decided on every rank, and must be the same
    bounds = (getattr(config, "max_position_embeddings", None), cache.max_tokens // BLOCK * BLOCK)
    context = min(bound for bound in bounds if bound is not None)
    return LanguageModel(name, slots, TextTokenizer(tokenizer), _defaults(name, model, max_tokens), context)


def _attend_by_slots(name: str, model: Any, cache: SlotCache) -> None:
    known = attention.register(cache.current)
    model.set_attn_implementation(known)
    if model.config.get_text_config(decoder=True)._attn_implementation != known:
        raise LoadError(f"{name} has an attention of its own, which cannot be told where rows of a batch begin and end")


def _layers(name: str, model: Any) -> list[bool]:
    if model.config.is_encoder_decoder:
        raise LoadError(f"{name} is an encoder with a decoder: only models that go on with their prompt can be served")
    kinds = get_layer_types_and_kwargs(model.config.get_text_config(decoder=True))[0]
    if unknown := sorted(set(kinds) - LAYERS.keys()):
        raise LoadError(
            f"{name} has layers of the kind {', '.join(unknown)}: only layers whose memory is keys and values can be "
            f"batched ({', '.join(LAYERS)})"
        )
    if getattr(model, "_is_stateful", False):
        raise LoadError(f"{name} is recurrent: its memory is not made of keys and values")
    return [LAYERS[kind] for kind in kinds]


def _defaults(name: str, model: Any, max_tokens: int | None) -> GenerationDefaults:
    told = model.generation_config
    if ignored := [one for one in IGNORED if getattr(told, one, None) not in (None, 0, 1.0)]:
        log.warning("%s: its generation_config asks for %s, which is not applied", name, ", ".join(ignored))
    ends = told.eos_token_id if told.eos_token_id is not None else []
    return GenerationDefaults(
        ends=frozenset(ends if isinstance(ends, list) else [ends]),
        temperature=(1.0 if told.temperature is None else float(told.temperature)) if told.do_sample else 0.0,
        top_p=1.0 if told.top_p is None else float(told.top_p),
        top_k=int(told.top_k or 0),
        max_tokens=max_tokens,
    )


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(MEMORY_SHARE * torch.cuda.mem_get_info(device)[0])
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        bound, used = (int((CONTAINER / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no container, or one without a bound
        return int(MEMORY_SHARE * free)
    return int(MEMORY_SHARE * max(0, min(free, bound - used)))


def _settings(source: ModelSource) -> LanguageSection:
    content = source.defaults()
    if content is None:
        return LanguageSection()
    if "language" not in content and source.is_diffusers_folder:
        raise LoadError(
            f"{source.defaults_file}: names no language model under `language`; serve a folder that has one"
        )
    try:
        return msgspec.convert(content.get("language", {}), LanguageSection)
    except msgspec.ValidationError as error:
        raise LoadError(f"{source.defaults_file}: {error}") from error
