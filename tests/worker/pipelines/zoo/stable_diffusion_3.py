"""Stable Diffusion 3: image to image, inpainting, ControlNets, perturbed attention; two CLIP encoders and a T5."""

from typing import Any

import diffusers
from diffusers import FlowMatchEulerDiscreteScheduler, SD3ControlNetModel, SD3Transformer2DModel

from .dit_gain import assemble
from .specimen import Specimen
from .text import call, clip_text, clip_tokenizer, image, kl_vae, mask_image, t5_encoder, t5_tokenizer

SIZE = 32


def _transformer(kind: type = SD3Transformer2DModel, **changes: Any) -> Any:
    config = {
        "sample_size": 16, "patch_size": 2, "in_channels": 16, "num_layers": 2, "attention_head_dim": 8,
        "num_attention_heads": 4, "caption_projection_dim": 32, "joint_attention_dim": 32,
        "pooled_projection_dim": 32, "out_channels": 16, "pos_embed_max_size": 16,
    }  # fmt: skip
    return kind(**(config | changes))


def _build(name: str, extra: int | None = None, **more: Any) -> Any:
    """`extra` channels of a ControlNet's condition, beside those of an image; None for no ControlNet."""
    if extra is not None:
        more["controlnet"] = _transformer(SD3ControlNetModel, extra_conditioning_channels=extra, num_layers=1)
    return assemble(
        getattr(diffusers, name),
        transformer=_transformer(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=kl_vae(latent=16, shift_factor=0.06, scaling_factor=1.5),
        text_encoder=clip_text(16, projection=True), tokenizer=clip_tokenizer(),
        text_encoder_2=clip_text(16, projection=True), tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5_encoder(), tokenizer_3=t5_tokenizer(),
        **more,
    )  # fmt: skip


def _call(i: int, *inputs: str, **more: Any) -> dict[str, Any]:
    drawn = {name: mask_image(SIZE) if "mask" in name else image(i + 10 * k, SIZE) for k, name in enumerate(inputs)}
    sizes = {"height": SIZE, "width": SIZE, "max_sequence_length": 16}
    return call(i, negative_prompt="bad quality", **sizes, **drawn, **more)


def _strong(i: int, *inputs: str) -> dict[str, Any]:
    return _call(i, *inputs, strength=0.8, num_inference_steps=(5, 6, 8, 4)[i % 4])


def _specimen(name: str, task: str, arguments: Any, **build: Any) -> Specimen:
    name = f"StableDiffusion3{name}Pipeline"
    return Specimen(name, "Stable Diffusion 3", task, lambda: _build(name, **build), arguments)


PAG = {"pag_applied_layers": "blocks.1"}
SPECIMENS = [
    _specimen("", "text-to-image", _call),
    _specimen("Img2Img", "image-to-image", lambda i: _strong(i, "image")),
    _specimen("Inpaint", "inpainting", lambda i: _strong(i, "image", "mask_image")),
    _specimen("ControlNet", "ControlNet", lambda i: _call(i, "control_image"), extra=0),
    _specimen("ControlNetInpainting", "ControlNet", lambda i: _call(i, "control_image", "control_mask"), extra=1),
    _specimen("PAG", "text-to-image", _call, **PAG),
    _specimen("PAGImg2Img", "image-to-image", lambda i: _strong(i, "image"), **PAG),
]
