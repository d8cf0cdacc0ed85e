"""Passes the embeddings of a prompt from one stage to the pipeline on the next stage.

They are either arguments of the pipeline's call by name (`prompt_embeds`, …), or everything that `encode_prompt`
returned on the previous stage, flattened into arrays. In that case it is replayed.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from omni_worker.device.host_copies import to_device, to_host
from omni_worker.errors import RequestError

STRUCTURE = "encode_prompt"  # the name of the array that holds the structure of the others, as JSON
MASKS = ("prompt_embeds_mask", "prompt_attention_mask")
WIDTHS = ("joint_attention_dim", "cross_attention_dim")


def embedding_arguments(
    embeddings: Mapping[str, np.ndarray], accepted: frozenset[str], denoiser: torch.nn.Module | None
) -> dict[str, Any]:
    """The arguments that replace the prompt in a pipeline's call, for a batch of one.

    Raises RequestError if the pipeline takes no embeddings, or its denoiser takes embeddings of another width.
    """
    states = embeddings.get("prompt_embeds")
    if states is None or denoiser is None or "prompt_embeds" not in accepted:
        raise RequestError("failed", "this model takes no embeddings of a prompt: give its stage `input: text`")
    config = getattr(denoiser, "config", {})
    width = next((config[name] for name in WIDTHS if isinstance(config.get(name), int)), None)
    if width is not None and states.shape[-1] != width:
        raise RequestError(
            "failed", f"the stage before gives states {states.shape[-1]} wide, and this model takes {width}"
        )
    parameter = next(denoiser.parameters())
    arguments = {"prompt_embeds": torch.from_numpy(np.array(states))[None].to(parameter.device, parameter.dtype)}
    mask, name = embeddings.get("prompt_embeds_mask"), next((name for name in MASKS if name in accepted), None)
    if mask is not None and name is not None:
        arguments[name] = torch.from_numpy(np.array(mask))[None].to(parameter.device)
    return arguments


def replay_encode_prompt(
    embeddings: Mapping[str, np.ndarray], device: torch.device, dtype: torch.dtype
) -> Callable[..., Any]:
    """An `encode_prompt` that returns the recorded results, call by call. Raises ValueError if they are malformed."""
    results = iter(unflatten(embeddings, device, dtype))

    def encode_prompt(*args: Any, **kwargs: Any) -> Any:
        try:
            return next(results)
        except StopIteration:
            raise ValueError("the pipeline encodes more prompts than the stage before did") from None

    return encode_prompt


def flatten(recorded: list[Any]) -> dict[str, np.ndarray]:
    """Nested lists and tuples of tensors as arrays by name. Floats become float32.

    Raises TypeError for any other value.
    """
    arrays: dict[str, np.ndarray] = {}

    def node(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            value = to_host(value.detach())
            arrays[str(len(arrays))] = (value.float() if value.is_floating_point() else value).numpy()
            return len(arrays) - 1
        if isinstance(value, list | tuple):
            return {type(value).__name__: [node(one) for one in value]}
        if value is None:
            return None
        raise TypeError(f"encode_prompt gave a {type(value).__name__}, which no other stage can be given")

    structure = json.dumps([node(one) for one in recorded]).encode()
    return {STRUCTURE: np.frombuffer(structure, np.uint8), **arrays}


def unflatten(embeddings: Mapping[str, np.ndarray], device: torch.device, dtype: torch.dtype) -> list[Any]:
    """The nested values that were flattened, with floats in `dtype`. Raises ValueError if they are malformed."""

    def value(node: Any) -> Any:
        if node is None:
            return None
        if isinstance(node, int):
            tensor = to_device(torch.from_numpy(np.array(embeddings[str(node)])), device)
            return tensor.to(dtype) if tensor.is_floating_point() else tensor
        ((kind, parts),) = node.items()
        return {"list": list, "tuple": tuple}[kind](value(part) for part in parts)

    try:
        return [value(node) for node in json.loads(embeddings[STRUCTURE].tobytes())]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"the embeddings of the stage before are malformed: {error!r}") from error
