"""Finds the models of a pipeline, the methods to intercept, and the phase of a request in which each is called."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import transformers
from diffusers import DiffusionPipeline

ENCODE, DENOISE, DECODE = "encode", "denoise", "decode"
"""The phases of a request."""
DECODERS = ("vocoder", "safety_checker", "upsampler")
ENCODERS = ("encoder", "text_proj", "text_conditioner", "connector", "projection_model")
PROMPT = "prompt_"
"""Starts the names of models that write a better prompt, before it is encoded."""


class ModelMethod(NamedTuple):
    """A method of a model that is intercepted, and the phase in which it is called."""

    name: str
    phase: str


def models(pipe: Any) -> dict[str, torch.nn.Module]:
    """A pipeline's models by name, including those of the pipelines that it contains."""
    found: dict[str, torch.nn.Module] = {}
    for name, part in vars(pipe).items():
        if isinstance(part, torch.nn.Module):
            found[name] = part
        elif isinstance(part, DiffusionPipeline):
            for inner, model in models(part).items():
                if all(model is not other for other in found.values()):
                    found[f"{name}.{inner}"] = model
    return found


def intercepted_methods(name: str, model: torch.nn.Module) -> Iterator[ModelMethod]:
    """The methods of a model that a pipeline calls: `encode` and `decode` of an autoencoder, `forward` of any other."""
    if hasattr(model, "decode") and hasattr(model, "encode"):
        yield ModelMethod("encode", ENCODE)
        yield ModelMethod("decode", DECODE)
    else:
        yield ModelMethod("forward", _phase(name, model))


def denoisers(pipe: Any) -> list[str]:
    """The names of the models that are called at least once in each step."""
    return [
        name
        for name, model in models(pipe).items()
        if any(method.phase == DENOISE for method in intercepted_methods(name, model))
    ]


def has_divided_weights(model: torch.nn.Module) -> bool:
    """Whether a model has only this rank's part of its weights."""
    return getattr(getattr(model, "_parallel_config", None), "tensor_parallel_config", None) is not None


def _phase(name: str, model: torch.nn.Module) -> str:
    if name.startswith(PROMPT):
        return ENCODE
    if any(word in name for word in DECODERS):
        return DECODE
    if isinstance(model, transformers.PreTrainedModel) or any(word in name for word in ENCODERS):
        return ENCODE
    return DENOISE
