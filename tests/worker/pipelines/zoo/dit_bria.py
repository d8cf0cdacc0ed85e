"""Bria and FIBO (every layer of a language model), Ovis, PRX in latents and in pixels, LongCat and its edits."""

import json
from typing import Any

import diffusers
from diffusers import (
    AutoencoderKLWan,
    BriaFiboTransformer2DModel,
    BriaTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    LongCatImageTransformer2DModel,
    OvisImageTransformer2DModel,
    PRXTransformer2DModel,
)

from .dit_gain import assemble
from .specimen import Specimen
from .text import call, image, kl_vae, noise, prompt, t5_encoder, t5_tokenizer
from .text_llm import llm_tokenizer, qwen2_5_vl, qwen2_processor, qwen3, smollm3

SIZE = 32
WIDTH = {
    "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
    "joint_attention_dim": 32, "axes_dims_rope": [4, 4, 8],
}  # fmt: skip


def _build(name: str, transformer: Any, text_encoder: Any, tokenizer: Any, vae: Any = None, **parts: Any) -> Any:
    return assemble(
        getattr(diffusers, f"{name}Pipeline"),
        scheduler=FlowMatchEulerDiscreteScheduler(), transformer=transformer, text_encoder=text_encoder,
        tokenizer=tokenizer, vae=vae or kl_vae(shift_factor=0.1, scaling_factor=0.5), **parts,
    )  # fmt: skip


def wan_vae(halvings: int = 2, **changes: Any) -> AutoencoderKLWan:
    config = {
        "base_dim": 8, "z_dim": 4, "dim_mult": [1] + [2] * halvings, "num_res_blocks": 1,
        "temperal_downsample": [False] * halvings, "latents_mean": [0.1, -0.2, 0.0, 0.2],
        "latents_std": [1.0, 0.9, 1.2, 1.1], "scale_factor_spatial": 2**halvings, "scale_factor_temporal": 1,
    }  # fmt: skip
    return AutoencoderKLWan(**(config | changes))


def _bria() -> Any:
    return _build("Bria", BriaTransformer2DModel(in_channels=16, **WIDTH), t5_encoder(), t5_tokenizer())


def _fibo(name: str) -> Any:
    """The VAE halves four times: the class takes sixteen for granted."""
    transformer = BriaFiboTransformer2DModel(
        in_channels=4, text_encoder_dim=32, **(WIDTH | {"joint_attention_dim": 64})
    )
    return _build(name, transformer, smollm3(), llm_tokenizer(), wan_vae(4), gain=3.0)


def _ovis() -> Any:
    transformer = OvisImageTransformer2DModel(in_channels=16, out_channels=16, **WIDTH)
    return _build("OvisImage", transformer, qwen3().model, llm_tokenizer())


def _longcat(name: str, **vae: Any) -> Any:
    transformer = LongCatImageTransformer2DModel(in_channels=64, pooled_projection_dim=32, **WIDTH)
    scaled = kl_vae(**({"shift_factor": 0.1, "scaling_factor": 0.5, "latent": 16} | vae))
    processor = qwen2_processor(model_max_length=512)
    pipe = _build(name, transformer, qwen2_5_vl(), llm_tokenizer(), scaled, text_processor=processor)
    pipe.tokenizer_max_length = 16
    return pipe


def _prx(name: str, channels: int, **parts: Any) -> Any:
    """The prompt is given as embeddings: what cleans a text needs a package that is not required here."""
    transformer = PRXTransformer2DModel(
        in_channels=channels, patch_size=2, context_in_dim=32, hidden_size=32, mlp_ratio=2.0, num_heads=2, depth=2,
        axes_dim=[8, 8],
    )  # fmt: skip
    return assemble(
        getattr(diffusers, name),
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), text_encoder=None, tokenizer=None,
        gain=3.0, **parts,
    )  # fmt: skip


CHEAP = {"channels": (4,) * 7, "groups": 4}  # an edit is of a million pixels


def _call(i: int, size: int | None = SIZE, length: int | None = 16, **more: Any) -> dict[str, Any]:
    common = {"height": size, "width": size, "max_sequence_length": length, "negative_prompt": "bad quality"}
    return call(i, **(common | more))


def _prx_call(i: int) -> dict[str, Any]:
    positive, negative = noise(i, 1, 6, 32), noise(i + 50, 1, 6, 32)
    mask = noise(0, 1, 6) > -9
    return _call(
        i, length=None, prompt=None, negative_prompt=None, prompt_embeds=positive, negative_prompt_embeds=negative,
        prompt_attention_mask=mask, negative_prompt_attention_mask=mask, use_resolution_binning=False,
    )  # fmt: skip


def _fibo_edit(i: int) -> dict[str, Any]:
    instruction = json.dumps({"edit_instruction": prompt(i)})
    return _call(i, 64, 48, prompt=instruction, image=image(i, 64), _auto_resize=False)


SPECIMENS = [
    Specimen("BriaPipeline", "Bria", "text-to-image", _bria, _call),
    Specimen("BriaFiboPipeline", "Bria", "text-to-image", lambda: _fibo("BriaFibo"), lambda i: _call(i, 64)),
    Specimen("BriaFiboEditPipeline", "Bria", "image editing", lambda: _fibo("BriaFiboEdit"), _fibo_edit),
    Specimen("OvisImagePipeline", "Ovis", "text-to-image", _ovis, _call),
    Specimen(
        "PRXPipeline", "PRX", "text-to-image",
        lambda: _prx("PRXPipeline", 4, vae=kl_vae(shift_factor=0.1, scaling_factor=0.5)), _prx_call,
    ),
    Specimen("PRXPixelPipeline", "PRX", "text-to-image", lambda: _prx("PRXPixelPipeline", 3), _prx_call),
    Specimen(
        "LongCatImagePipeline", "LongCat", "text-to-image", lambda: _longcat("LongCatImage"),
        lambda i: _call(i, length=None, enable_prompt_rewrite=False),
    ),
    Specimen(
        "LongCatImageEditPipeline", "LongCat", "image editing", lambda: _longcat("LongCatImageEdit", **CHEAP),
        lambda i: _call(i, None, None, image=image(i), output_type="latent"),
    ),
]  # fmt: skip
