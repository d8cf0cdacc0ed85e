"""Loads a causal language model from its source, and checks that it can be batched.

A folder or repository of transformers contains the model itself. A folder of diffusers names the subfolder of its
language model in `omni.json`: `"language": {"subfolder": "thinker", "max_tokens": 16}`.
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

from omni_worker.config.hub_proxy import require_usable_proxies
from omni_worker.config.model_source import ModelSource
from omni_worker.device.dtypes import weights_dtype
from omni_worker.errors import LoadError
from omni_worker.language import attention
from omni_worker.language.batch_check import BEYOND, batching_error
from omni_worker.language.cache import BLOCK, SlotCache
from omni_worker.language.model import SlotModel
from omni_worker.language.rotary import separate_lengths
from omni_worker.language.score_rules import ModelScoreRules
from omni_worker.language.text import TextTokenizer
from omni_worker.parallel.chain import Chain

log = logging.getLogger(__name__)
LAYERS = ("full_attention", "sliding_attention", "chunked_attention")
"""The kinds of layers whose state is keys and values."""
CHECKED_LENGTHS = {"cpu": 1024, "cuda": 8192}
"""The longest text that is run to check a model when it is loaded, by device. It takes seconds."""
MEMORY_SHARE = 0.8
CONTAINER = Path("/sys/fs/cgroup")


class LanguageSection(msgspec.Struct, frozen=True, kw_only=True):
    """The section `language` of the `omni.json` of a diffusers folder."""

    subfolder: str = ""
    max_tokens: int | None = None


@dataclass(frozen=True)
class GenerationDefaults:
    """A model's defaults for what a request leaves open.

    eos_tokens: the end-of-sequence tokens
    score_rules: what the model asks of its scores beyond these
    max_tokens: of an output; None if the folder does not say
    """

    eos_tokens: frozenset[int]
    score_rules: ModelScoreRules
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int | None = None


@dataclass(frozen=True)
class LanguageModel:
    """A model on its device.

    name: the class of the model
    context_length: the largest number of tokens of prompt and output together; None means no bound
    """

    name: str
    slots: SlotModel
    tokenizer: TextTokenizer
    defaults: GenerationDefaults
    context_length: int | None


def load(source: ModelSource, dtype: str = "auto", chain: Chain | None = None) -> LanguageModel:
    """Load `source` onto this process's device in `dtype`, by default float32 on a CPU and bfloat16 on a GPU.

    A rank of a `chain` keeps only its own layers. Raises LoadError if the model is missing, broken, or cannot be
    batched here.
    """
    transformers.utils.logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weights = weights_dtype(dtype, device)
    section = _language_section(source)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(**_place(source, section))
        model = transformers.AutoModelForCausalLM.from_pretrained(
            dtype=weights, use_safetensors=True, **_place(source, section)
        )
    except Exception as error:  # transformers passes on what any part of it raises
        raise LoadError(f"the language model of {source.text} cannot be loaded: {error}") from error
    return wrap(model.to(device), tokenizer, section.max_tokens, chain=chain)


def load_tokenizer(source: ModelSource) -> TextTokenizer:
    """Load only the tokenizer of `source`. Raises LoadError if it is missing or broken."""
    try:
        return TextTokenizer(transformers.AutoTokenizer.from_pretrained(**_place(source, _language_section(source))))
    except Exception as error:
        raise LoadError(f"the tokenizer of {source.text} cannot be loaded: {error}") from error


def _place(source: ModelSource, section: LanguageSection) -> dict[str, Any]:
    """Where transformers finds the model and its tokenizer, and that it runs no code of theirs. Raises UsageError."""
    if not source.is_local:
        require_usable_proxies()
    return {
        "pretrained_model_name_or_path": source.location,
        "subfolder": section.subfolder,
        "revision": source.revision,
        "local_files_only": source.is_local,
        "trust_remote_code": False,  # a model is data: its Python files are not run
    }


def wrap(
    model: Any,
    tokenizer: Any,
    max_tokens: int | None = None,
    max_bytes: int | None = None,
    chain: Chain | None = None,
) -> LanguageModel:
    """Wrap a loaded model over a cache of slots of at most `max_bytes`, by default most of the free memory.

    Raises LoadError if the model cannot be batched, or if its layers cannot be spread over the ranks of `chain`.
    """
    name, config = type(model).__name__, model.config.get_text_config(decoder=True)
    windows = _windows(name, model)
    device = model.device  # of a rank of several this is `meta` once its other layers are gone
    cache = SlotCache([window is not None for window in windows], device)
    slots = SlotModel(model.eval(), cache, chain)
    original = model.config._attn_implementation
    named_context = getattr(config, "max_position_embeddings", None)
    slots.length_borders, context = separate_lengths(model, named_context, cache.current)
    borders = {*slots.length_borders, *(window for window in windows if window is not None)}
    checked, context = _checkable(borders, context, device)
    if context != named_context:
        log.warning("%s takes %s tokens here, not %s: what it does beyond is not checked", name, context, named_context)

    def switch() -> None:
        _attend_by_slots(name, model, cache)
        slots.divide()

    try:
        difference = batching_error(slots, checked, switch)
    except LoadError:
        raise
    except Exception as error:
        raise LoadError(f"{name} cannot be run over a cache of slots: {error}") from error
    if difference is not None:
        raise LoadError(
            f"{name} gives other scores in a batch than alone ({difference:.0%} off, attention {original!r}): "
            "its state is more than the keys and values of the tokens before"
        )
    room = (max_bytes or _free_bytes(device)) // cache.token_bytes
    cache.max_tokens = slots.chain.minimum(room)  # the same on all ranks, so that all evict the same requests
    longest = cache.max_tokens // BLOCK * BLOCK
    context = longest if context is None else min(context, longest)
    try:
        defaults = _defaults(name, model, max_tokens, device)
    except (ValueError, TypeError, AttributeError) as error:  # what transformers raises for settings that make no sense
        raise LoadError(f"{name}: its generation_config cannot be applied: {error}") from error
    return LanguageModel(name, slots, TextTokenizer(tokenizer), defaults, context)


def _attend_by_slots(name: str, model: Any, cache: SlotCache) -> None:
    implementation = attention.register(cache.current)
    model.set_attn_implementation(implementation)
    if model.config.get_text_config(decoder=True)._attn_implementation != implementation:
        raise LoadError(f"{name} has an attention of its own, which cannot be told where rows of a batch begin and end")


def _checkable(borders: set[int], context: int | None, device: torch.device) -> tuple[list[int], int | None]:
    """The borders that a check goes beyond when the model is loaded, and the longest text that stays below the others.

    Borders that no text of `context` tokens reaches do not count.
    """
    reached = {one for one in borders if context is None or one < context}
    longest = CHECKED_LENGTHS["cpu" if device.type == "cpu" else "cuda"] - BEYOND
    unchecked = [one for one in reached if one > longest]
    return sorted(one for one in reached if one <= longest), min(unchecked, default=context)


def _windows(name: str, model: Any) -> list[int | None]:
    """The window of each layer in tokens; None for a layer that attends to all tokens."""
    if model.config.is_encoder_decoder:
        raise LoadError(f"{name} is an encoder with a decoder: only decoder-only models can be served")
    kinds, options = get_layer_types_and_kwargs(model.config.get_text_config(decoder=True))
    if unknown := sorted(set(kinds) - set(LAYERS)):
        raise LoadError(
            f"{name} has layers of the kind {', '.join(unknown)}: only layers whose memory is keys and values can be "
            f"batched ({', '.join(LAYERS)})"
        )
    if getattr(model, "_is_stateful", False):
        raise LoadError(f"{name} is recurrent: its memory is not made of keys and values")
    return [one.get("sliding_window") for one in options]


def _defaults(name: str, model: Any, max_tokens: int | None, device: torch.device) -> GenerationDefaults:
    config = model.generation_config
    eos = config.eos_token_id if config.eos_token_id is not None else []
    eos_tokens = frozenset(eos if isinstance(eos, list) else [eos])
    return GenerationDefaults(
        eos_tokens=eos_tokens,
        score_rules=ModelScoreRules(name, model, tuple(eos_tokens), device),
        temperature=(1.0 if config.temperature is None else float(config.temperature)) if config.do_sample else 0.0,
        top_p=1.0 if config.top_p is None else float(config.top_p),
        top_k=int(config.top_k or 0),
        max_tokens=max_tokens,
    )


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(MEMORY_SHARE * torch.cuda.mem_get_info(device)[0])
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        bound, used = (int((CONTAINER / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no container, or one without a memory limit
        return int(MEMORY_SHARE * free)
    return int(MEMORY_SHARE * max(0, min(free, bound - used)))


def _language_section(source: ModelSource) -> LanguageSection:
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
