"""The components that the families with a UNet share, and how their specimens are put together."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from diffusers import ControlNetModel, ControlNetUnionModel, DDIMScheduler, EulerDiscreteScheduler, UNet2DConditionModel

from .specimen import Specimen
from .text import assemble, call, clip_text, clip_tokenizer, kl_vae

SIZE = 16  # pixels a side of an image; 8 of a latent

_DENOISER = {"block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8, "attention_head_dim": (2, 4)}
_SD = _DENOISER | {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "cross_attention_dim": 32,
}
_SDXL = _SD | {
    "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
    "transformer_layers_per_block": (1, 2), "projection_class_embeddings_input_dim": 80, "cross_attention_dim": 64,
}  # fmt: skip
_UNET = {"up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "sample_size": SIZE // 2}
_CONTROL = {"conditioning_embedding_out_channels": (8, 16)}


def louder(module: torch.nn.Module, gain: float) -> Any:
    """The module with larger weights, and what starts as zero drawn as large, so that its input is well heard."""
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05 * gain)
            elif parameter.ndim > 1:
                parameter.mul_(gain)
    return module


def sd_unet(**changes: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(**(_SD | _UNET | changes))


def sdxl_unet(**changes: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(**(_SDXL | _UNET | changes))


def sd_controlnet(**changes: Any) -> ControlNetModel:
    return louder(ControlNetModel(**(_SD | _CONTROL | changes)), 4.0)


def sdxl_controlnet(**changes: Any) -> ControlNetModel:
    return louder(ControlNetModel(**(_SDXL | _CONTROL | changes)), 4.0)


def sdxl_controlnet_union(**changes: Any) -> ControlNetUnionModel:
    union = {"num_trans_channel": 32, "num_trans_head": 2, "num_proj_channel": 32, "num_control_type": 2}
    return louder(ControlNetUnionModel(**(_SDXL | _CONTROL | union | changes)), 4.0)


def ddim(**changes: Any) -> DDIMScheduler:
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return DDIMScheduler(**(betas | {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1} | changes))


def euler(**changes: Any) -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **changes)


def accepted(function: Callable[..., Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """Those of the arguments that the function has a parameter for."""
    parameters = inspect.signature(function).parameters
    return {name: value for name, value in arguments.items() if name in parameters}


def sd(pipeline_class: type, unet: dict[str, Any] | None = None, **changes: Any) -> Any:
    """A pipeline with the components of Stable Diffusion; `unet` changes the UNet's configuration."""
    shared = {
        "vae": kl_vae(scaling_factor=1.0), "text_encoder": clip_text(32), "tokenizer": clip_tokenizer(),
        "unet": sd_unet(**(unet or {})), "scheduler": ddim(),
        "safety_checker": None, "feature_extractor": None, "requires_safety_checker": False,
    }  # fmt: skip
    return assemble(pipeline_class, **(accepted(pipeline_class.__init__, shared) | changes))


def sdxl(pipeline_class: type, unet: dict[str, Any] | None = None, **changes: Any) -> Any:
    """A pipeline with the components of Stable Diffusion XL; `unet` changes the UNet's configuration."""
    shared = {
        "vae": kl_vae(scaling_factor=1.0), "text_encoder": clip_text(32), "tokenizer": clip_tokenizer(),
        "text_encoder_2": clip_text(32, projection=True), "tokenizer_2": clip_tokenizer(),
        "unet": sdxl_unet(**(unet or {})), "scheduler": euler(), "add_watermarker": False,
    }  # fmt: skip
    return assemble(pipeline_class, **(accepted(pipeline_class.__init__, shared) | changes))


def specimen(
    family: str,
    task: str,
    pipeline_class: type,
    build: Callable[[type], Any],
    inputs: Callable[[int], dict[str, Any]] = lambda i: {},
    suffix: str = "",
) -> Specimen:
    """`inputs` is added to what is common to the calls, as far as the class accepts the latter."""

    def arguments(i: int) -> dict[str, Any]:
        common = call(i, negative_prompt="low", height=SIZE, width=SIZE)
        return accepted(pipeline_class.__call__, common) | inputs(i)

    return Specimen(pipeline_class.__name__ + suffix, family, task, lambda: build(pipeline_class), arguments)
