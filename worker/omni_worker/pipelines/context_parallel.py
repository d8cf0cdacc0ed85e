"""Divides the sequences of a pipeline's denoisers over ranks, by the plans that diffusers has for their classes.

diffusers is completed where its plans or its collectives do not suffice: the positions of LTX-2's attention between
video and sound, timesteps of single tokens, masks of single heads, parts of different lengths on CPUs.
"""

import functools
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig, LTX2VideoTransformer3DModel, LTXVideoTransformer3DModel
from diffusers.hooks import context_parallel
from diffusers.models._modeling_parallel import ContextParallelInput, gather_size_by_comm
from diffusers.models.transformers import transformer_ltx, transformer_ltx2
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.nn.functional import pad

from omni_settings.parallelism import ModelParallelism
from omni_worker.errors import LoadError
from omni_worker.parallel.ranks import Ranks, counting_cpus
from omni_worker.pipelines.batching.parallel_models import ParallelModels, SplitArgument
from omni_worker.pipelines.components import denoisers, models

AXES = ("cfg", "ring", "ulysses")
REPEATING_MASKS = (transformer_ltx, transformer_ltx2)
"""Modules of models that repeat their mask for each head. diffusers divides the heads, but not such a mask."""
ALWAYS_MASKED = (LTXVideoTransformer3DModel, LTX2VideoTransformer3DModel)
INDIVISIBLE = {
    "Flux2KleinKVPipeline": "hands the keys and values of whole sequences from step to step",
    "LTXI2VLongMultiPromptPipeline": "gives each token a timestep in a form that no plan divides",
}
"""Pipelines that call a model with a plan in a way for which the plan is not made."""


def divide_sequences(pipe: Any, parallelism: ModelParallelism, ranks: Ranks, device: str) -> ParallelModels:
    """Let consecutive ranks compute each call of the denoisers together. All ranks must call this.

    Raises LoadError if diffusers has no plan for a denoiser, or if one cannot be divided so.
    """
    setting = parallelism.flags
    remedy = "remove it, and divide the rows of calls with --cfg-parallel-size (parallelism.cfg)"
    found = {name: model for name, model in models(pipe).items() if name in denoisers(pipe)}
    unplanned = sorted({type(model).__name__ for model in found.values() if getattr(model, "_cp_plan", None) is None})
    if unplanned:
        raise LoadError(
            f"{setting}: diffusers has no plan to divide the sequences of {' and '.join(unplanned)}: {remedy}"
        )
    if reason := INDIVISIBLE.get(type(pipe).__name__):
        raise LoadError(f"{setting}: {type(pipe).__name__} {reason}: {remedy}")
    if parallelism.ring > 1 and any(isinstance(model, ALWAYS_MASKED) for model in found.values()):
        raise LoadError(f"{setting}: {type(pipe).__name__} masks its texts, which ring attention does not: {remedy}")
    for model in found.values():
        _require_enough_heads(model, parallelism.ulysses)
    vars(context_parallel)["_all_gather_anything"] = gather_parts
    for module in REPEATING_MASKS:
        _let_heads_share_masks(module)
    shape = (ranks.size // parallelism.ranks, parallelism.ring, parallelism.ulysses)
    mesh = init_device_mesh(device, shape, mesh_dim_names=AXES)
    splits = {name: _divide(model, parallelism, mesh) for name, model in found.items()}
    return ParallelModels(parallelism.ranks, splits, takes_masks=parallelism.ring == 1)


def _divide(model: Any, parallelism: ModelParallelism, mesh: DeviceMesh) -> Mapping[str, SplitArgument]:
    """Divide one model. Returns the arguments that are divided where it is called."""
    plan = _plan_of(model)
    anything = {"ulysses_anything": True} if parallelism.ulysses > 1 else {"ring_anything": True}
    config = ContextParallelConfig(parallelism.ring, parallelism.ulysses, mesh=mesh, **anything)
    with counting_cpus():
        try:
            model.enable_parallelism(config=config, cp_plan=plan)
        except ValueError as error:
            raise LoadError(f"parallelism of {type(model).__name__}: {error}") from error
    return {
        name: SplitArgument(part.split_dim, part.expected_dims)
        for inputs in plan.values()
        if isinstance(inputs, dict)
        for name, part in inputs.items()
        if isinstance(name, str) and isinstance(part, ContextParallelInput)
    }


def _plan_of(model: Any) -> dict[str, Any]:
    """diffusers' plan for a model, without parts that this one does not have, and with those that are missing."""
    plan = {path: part for path, part in model._cp_plan.items() if _exists(model, path)}
    if isinstance(model, ALWAYS_MASKED):
        plan[""] = {**plan[""], "timestep": ContextParallelInput(split_dim=1, expected_dims=2)}
    if isinstance(model, LTX2VideoTransformer3DModel):
        dim = 2 if model.config.rope_type == "split" else 1
        angles = ContextParallelInput(split_dim=dim, expected_dims=dim + 2, split_output=True)
        plan |= {path: {0: angles, 1: angles} for path in ("rope", "cross_attn_rope")}
    return plan


def _exists(model: torch.nn.Module, path: str) -> bool:
    """Whether a model has the part that a plan names. Some plans count as many layers as the published models have."""
    part: Any = model
    for name in path.partition("*")[0].rstrip(".").split(".") if path else []:
        if not hasattr(part, name):
            return False
        part = getattr(part, name)
    return True


def _require_enough_heads(model: Any, degree: int) -> None:
    """Raises LoadError if the heads of an attention cannot be distributed: only the last rank may have fewer."""
    heads = getattr(model.config, "num_attention_heads", None)
    if heads is None:
        return
    missing = -heads % degree
    if missing and missing >= (heads + missing) // degree:
        raise LoadError(
            f"--ulysses-degree {degree} (parallelism.ulysses): {type(model).__name__} has {heads} attention heads, "
            f"which {degree} devices cannot share: use a divisor of {heads}"
        )


def gather_parts(tensor: Tensor, dim: int, group: dist.ProcessGroup) -> Tensor:
    """Every rank's part of a sequence, joined along `dim`. Shorter parts are padded: gloo takes only equal shapes."""
    lengths = gather_size_by_comm(tensor.shape[dim], group)
    missing = max(lengths) - tensor.shape[dim]
    padded = pad(tensor, [0, 0] * (tensor.dim() - 1 - dim) + [0, missing]).contiguous()
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded, group=group)
    return torch.cat([part.narrow(dim, 0, length) for part, length in zip(parts, lengths, strict=True)], dim=dim)


@functools.cache
def _let_heads_share_masks(module: ModuleType) -> None:
    """Give the attention of a module's models one mask for all heads, where it is divided."""
    dispatch = vars(module)["dispatch_attention_fn"]

    @functools.wraps(dispatch)
    def with_shared_mask(query: Tensor, *args: Any, attn_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        is_divided = kwargs.get("parallel_config") is not None
        if is_divided and attn_mask is not None and attn_mask.dim() == 4 and attn_mask.shape[1] == query.shape[2]:
            attn_mask = attn_mask[:, :1]
        result: Tensor = dispatch(query, *args, attn_mask=attn_mask, **kwargs)
        return result

    vars(module)["dispatch_attention_fn"] = with_shared_mask
