"""Flux 2: plain, with reference images, and its small distilled kin (Klein, its inpainting, its cached references)."""

from typing import Any

import diffusers
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel

from .dit_gain import assemble
from .specimen import Specimen
from .text import call, image, mask_image
from .text_llm import llm_tokenizer, mistral3, qwen3

LAYERS = (0, 1, 2)  # of the text encoder, whose hidden states are concatenated
REFERENCE = 64  # pixels a side; the pipelines refuse a smaller reference


def flux2_vae(**changes: Any) -> AutoencoderKLFlux2:
    config = {
        "block_out_channels": (16, 32), "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 8,
        "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
        "sample_size": 32, "use_quant_conv": True, "use_post_quant_conv": True,
    }  # fmt: skip
    return AutoencoderKLFlux2(**(config | changes))


def _build(name: str, guidance: bool, **more: Any) -> Any:
    return assemble(
        getattr(diffusers, name),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        transformer=Flux2Transformer2DModel(
            patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=2, joint_attention_dim=96, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=guidance,
        ),
        vae=flux2_vae(),
        tokenizer=llm_tokenizer(),
        **more,
    )  # fmt: skip


def _flux2() -> Any:
    return _build("Flux2Pipeline", True, text_encoder=mistral3())


def _klein(name: str, distilled: bool = False) -> Any:
    return _build(name, False, text_encoder=qwen3(), is_distilled=distilled)


def _call(i: int, size: int = 32, length: int = 24, **more: Any) -> dict[str, Any]:
    common = {"height": size, "width": size, "max_sequence_length": length, "text_encoder_out_layers": LAYERS}
    return call(i, **common, **more)


def _referred(i: int, **more: Any) -> dict[str, Any]:
    return _call(i, image=image(i, REFERENCE), **more)


def _inpaint(i: int) -> dict[str, Any]:
    inputs = {"image": image(i, REFERENCE), "mask_image": mask_image(REFERENCE)}
    return _call(i, REFERENCE, strength=0.8, num_inference_steps=(5, 6, 8, 4)[i % 4], **inputs)


KLEIN = "Flux2KleinPipeline"
SPECIMENS = [
    Specimen("Flux2Pipeline", "Flux 2", "text-to-image", _flux2, lambda i: _call(i, length=80)),
    Specimen("Flux2Pipeline-reference", "Flux 2", "image editing", _flux2, lambda i: _referred(i, length=80)),
    Specimen(KLEIN, "Flux 2", "text-to-image", lambda: _klein(KLEIN), _call),
    Specimen(f"{KLEIN}-reference", "Flux 2", "image editing", lambda: _klein(KLEIN), _referred),
    Specimen(
        "Flux2KleinInpaintPipeline", "Flux 2", "inpainting", lambda: _klein("Flux2KleinInpaintPipeline"), _inpaint
    ),
    Specimen(
        "Flux2KleinKVPipeline", "Flux 2", "image editing", lambda: _klein("Flux2KleinKVPipeline", distilled=True),
        lambda i: _referred(i, guidance_scale=None),
    ),
]  # fmt: skip
