"""Qwen-Image: image to image, inpainting, edits, ControlNets, layers; and Qwen-Image 2.1."""

from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImageControlNetModel,
    QwenImageTransformer2DModel,
)
from diffusers.models.autoencoders.vae import DecoderOutput

from .dit_gain import assemble
from .specimen import Specimen
from .text import call, image, mask_image, noise, prompt
from .text_llm import llm_tokenizer, qwen2_5_vl, qwen2_processor

SIZE = 32
HIDDEN = 32


def qwen_vae(kind: type = AutoencoderKLQwenImage, **changes: Any) -> Any:
    config = {
        "base_dim": 8, "z_dim": 4, "dim_mult": [1, 2, 2], "num_res_blocks": 1, "temperal_downsample": [False] * 2,
        "latents_mean": [0.1, -0.2, 0.0, 0.2], "latents_std": [1.0, 0.9, 1.2, 1.1],
    }  # fmt: skip
    return kind(**(config | changes))


class _Coarse(AutoencoderKLQwenImage):
    """Sees a pixel of sixteen a side, for the pipelines that scale what they are given to a million pixels."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.temperal_downsample = [False] * 6  # whose length tells the pipelines how often a side is halved

    def _encode(self, x: torch.Tensor) -> torch.Tensor:
        return super()._encode(x[..., ::16, ::16])

    def _decode(self, z: torch.Tensor, return_dict: bool = True) -> Any:
        (sample,) = super()._decode(z, return_dict=False)
        sample = sample.repeat_interleave(16, dim=-1).repeat_interleave(16, dim=-2)
        return DecoderOutput(sample=sample) if return_dict else (sample,)


def _transformer(kind: type = QwenImageTransformer2DModel, **changes: Any) -> Any:
    config = {
        "patch_size": 2, "in_channels": 16, "out_channels": 4, "num_layers": 2, "attention_head_dim": 16,
        "num_attention_heads": 2, "joint_attention_dim": HIDDEN, "axes_dims_rope": (8, 4, 4),
    }  # fmt: skip
    return kind(**(config | changes))


def _build(name: str, *, text: bool = True, processor: bool = False, extra: int | None = None, **changes: Any) -> Any:
    """`extra` channels of a ControlNet's condition, beside those of an image; None for no ControlNet."""
    parts: dict[str, Any] = {"vae": changes.pop("vae", None) or qwen_vae()}
    if processor:
        parts["processor"] = qwen2_processor(model_max_length=512)
    if extra is not None:
        parts["controlnet"] = _transformer(QwenImageControlNetModel, num_layers=1, extra_condition_channels=extra)
    return assemble(
        getattr(diffusers, name),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        text_encoder=qwen2_5_vl(HIDDEN) if text else None,
        tokenizer=llm_tokenizer(model_max_length=512) if text else None,
        transformer=_transformer(**changes),
        **parts,
    )


def _edit(name: str) -> Any:
    return _build(name, processor=True, vae=qwen_vae(_Coarse))


def _layers(name: str) -> Any:
    """Images of four channels, which latents must not have."""
    vae = qwen_vae(_Coarse, input_channels=4, z_dim=8, latents_mean=[0.1] * 8, latents_std=[1.1] * 8)
    layered = {"use_additional_t_cond": True, "use_layer3d_rope": True}
    return _build(name, processor=True, vae=vae, in_channels=32, out_channels=8, **layered)


def _call(i: int, *inputs: str, size: int | None = SIZE, **more: Any) -> dict[str, Any]:
    drawn = {name: mask_image(SIZE) if "mask" in name else image(i + 10 * k, SIZE) for k, name in enumerate(inputs)}
    scales = {"guidance_scale": None, "true_cfg_scale": (4.0, 3.0, 5.0, 2.0)[i % 4], "negative_prompt": "bad quality"}
    return call(i, **(scales | {"height": size, "width": size} | drawn | more))


def _strong(i: int, *inputs: str, **more: Any) -> dict[str, Any]:
    return _call(i, *inputs, strength=0.8, num_inference_steps=(5, 6, 8, 4)[i % 4], **more)


def _layered(i: int) -> dict[str, Any]:
    """One layer of 640 pixels a side, the least there is."""
    return _call(i, size=None, image=image(i).convert("RGBA"), layers=1, resolution=640)


def longer(i: int) -> str:
    """A prompt of a length of its own for each i of four."""
    return prompt(i) + " quality" * (2 * i % 8)


def _masks(i: int) -> dict[str, Any]:
    """Embeddings as long as one another, of which fewer are meant."""
    mask = (torch.arange(8) < 8 - i % 4 - 1).long()[None]
    embeddings = {
        "prompt_embeds": noise(i, 1, 8, HIDDEN), "prompt_embeds_mask": mask,
        "negative_prompt_embeds": noise(i + 50, 1, 8, HIDDEN), "negative_prompt_embeds_mask": mask,
    }  # fmt: skip
    return _call(i, prompt=None, negative_prompt=None, **embeddings)


def _specimen(name: str, task: str, arguments: Any, suffix: str = "", build: Any = _build, **changes: Any) -> Specimen:
    name = f"QwenImage{name}Pipeline"
    return Specimen(name + suffix, "Qwen-Image", task, lambda: build(name, **changes), arguments)


SPECIMENS = [
    _specimen("", "text-to-image", _call),
    _specimen("", "text-to-image", lambda i: _call(i, prompt=longer(i)), "-lengths"),
    _specimen("", "text-to-image", _masks, "-masks", text=False),
    _specimen("Img2Img", "image-to-image", lambda i: _strong(i, "image")),
    _specimen("Inpaint", "inpainting", lambda i: _strong(i, "image", "mask_image")),
    _specimen("ControlNet", "ControlNet", lambda i: _call(i, "control_image"), extra=0),
    _specimen("ControlNetInpaint", "ControlNet", lambda i: _call(i, "control_image", "control_mask"), extra=4),
    _specimen("Edit", "image editing", lambda i: _call(i, "image", size=128), build=_edit),
    _specimen("EditInpaint", "inpainting", lambda i: _strong(i, "image", "mask_image", size=None), build=_edit),
    _specimen("EditPlus", "image editing", lambda i: _call(i, size=128, image=[image(i), image(i + 10)]), build=_edit),
    _specimen("Layered", "image editing", _layered, build=_layers),
]  # fmt: skip
