"""Which parts of a pipeline are models whose calls are intercepted, and in which phase of a request each is called."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import transformers
from diffusers import DiffusionPipeline

ENCODE, DENOISE, DECODE = "encode", "denoise", "decode"
"""The phases of a request."""
DECODERS = ("vocoder", "safety_checker", "upsampler")
ENCODERS = ("encoder", "text_proj", "connector", "projection_model")


class Method(NamedTuple):
    """A method of a model that is intercepted."""

    name: str
    phase: str


def models(pipe: Any) -> dict[str, torch.nn.Module]:
    """A pipeline's models by name, those of the pipelines that it is made of too."""
    found: dict[str, torch.nn.Module] = {}
    for name, part in vars(pipe).items():
        if isinstance(part, torch.nn.Module):
            found[name] = part
        elif isinstance(part, DiffusionPipeline):
            for inner, model in models(part).items():
                if all(model is not known for known in found.values()):
                    found[f"{name}.{inner}"] = model
    return found


def methods(name: str, model: torch.nn.Module) -> Iterator[Method]:
    """The methods of a model that a pipeline calls."""
    if hasattr(model, "decode") and hasattr(model, "encode"):
        yield Method("encode", ENCODE)
        yield Method("decode", DECODE)
    else:
        yield Method("forward", _phase(name, model))


def _phase(name: str, model: torch.nn.Module) -> str:
    if any(word in name for word in DECODERS):
        return DECODE
    if isinstance(model, transformers.PreTrainedModel) or any(word in name for word in ENCODERS):
        return ENCODE
    return DENOISE


def denoisers(pipe: Any) -> list[str]:
    """The names of the models that are called once or more in each step."""
    return [
        name for name, model in models(pipe).items() if any(method.phase == DENOISE for method in methods(name, model))
    ]
