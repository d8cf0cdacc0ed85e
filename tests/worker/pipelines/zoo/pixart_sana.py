"""PixArt and Sana: cross attention to a padded prompt and its mask; perturbed attention, Sprint, a ControlNet."""

from typing import Any

import diffusers
from diffusers import (
    AutoencoderDC,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    PixArtTransformer2DModel,
    SanaControlNetModel,
    SanaTransformer2DModel,
    SCMScheduler,
)

from .dit_gain import assemble
from .specimen import Specimen
from .text import call, image, kl_vae, t5_encoder, t5_tokenizer
from .text_llm import gemma2, llm_tokenizer

SIZE = 32
PAG = {"pag_applied_layers": ["transformer_blocks.1"]}
PLAIN = {"height": SIZE, "width": SIZE, "use_resolution_binning": False, "max_sequence_length": 16}


def _pixart(name: str, sizes: bool = False, **more: Any) -> Any:
    """`sizes`: the transformer takes the resolution and aspect ratio as conditions too."""
    heads = 3 if sizes else 2  # three conditions share the width
    return assemble(
        getattr(diffusers, name),
        tokenizer=t5_tokenizer(),
        text_encoder=t5_encoder(),
        vae=kl_vae(),
        transformer=PixArtTransformer2DModel(
            num_attention_heads=heads, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=2,
            cross_attention_dim=heads * 16, caption_channels=32, sample_size=128 if sizes else 16,
            interpolation_scale=1, use_additional_conditions=sizes,
        ),
        scheduler=DPMSolverMultistepScheduler(),
        **more,
    )  # fmt: skip


def _sana_vae() -> AutoencoderDC:
    blocks = {
        f"{part}_{name}": value
        for part in ("encoder", "decoder")
        for name, value in {
            "block_types": ("ResBlock", "EfficientViTBlock"), "block_out_channels": (8, 16),
            "layers_per_block": (1, 1), "qkv_multiscales": ((), (5,)),
        }.items()
    }  # fmt: skip
    return AutoencoderDC(latent_channels=4, attention_head_dim=8, scaling_factor=0.4, **blocks)


def _sana_transformer(kind: type = SanaTransformer2DModel, **changes: Any) -> Any:
    config = {
        "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2,
        "num_cross_attention_heads": 2, "cross_attention_head_dim": 16, "cross_attention_dim": 32,
        "caption_channels": 32, "sample_size": 16,
    }  # fmt: skip
    return kind(**(config | changes))


def _sana(name: str, controlnet: bool = False, **more: Any) -> Any:
    if controlnet:
        more["controlnet"] = _sana_transformer(SanaControlNetModel, num_layers=1)
    sprint = "Sprint" in name
    changes = {"guidance_embeds": True, "guidance_embeds_scale": 0.1, "qk_norm": "rms_norm_across_heads"}
    scheduler = (
        SCMScheduler(prediction_type="trigflow", sigma_data=0.5) if sprint else FlowMatchEulerDiscreteScheduler()
    )
    return assemble(
        getattr(diffusers, name),
        tokenizer=llm_tokenizer(),
        text_encoder=gemma2(),
        vae=_sana_vae(),
        transformer=_sana_transformer(**(changes if sprint else {})),
        scheduler=scheduler,
        **more,
    )


def _pixart_call(i: int, **more: Any) -> dict[str, Any]:
    return call(i, negative_prompt="bad quality", clean_caption=False, **PLAIN, **more)


def _sana_call(i: int, **more: Any) -> dict[str, Any]:
    return call(i, negative_prompt="bad quality", **PLAIN, **more) | {"complex_human_instruction": None}


def _instructed(i: int) -> dict[str, Any]:
    return _sana_call(i) | {"complex_human_instruction": ["low quality:", "a prompt:"]}


def _sprint(i: int, **more: Any) -> dict[str, Any]:
    """Only two steps may do without timesteps of the caller's own."""
    return call(i, **PLAIN, **more) | {"intermediate_timesteps": None, "complex_human_instruction": None}


def _specimen(name: str, task: str, arguments: Any, suffix: str = "", **build: Any) -> Specimen:
    family = "PixArt" if name.startswith("PixArt") else "Sana"
    name = f"{name}Pipeline"
    maker = _pixart if family == "PixArt" else _sana
    return Specimen(name + suffix, family, task, lambda: maker(name, **build), arguments)


SPECIMENS = [
    _specimen("PixArtAlpha", "text-to-image", _pixart_call),
    _specimen("PixArtAlpha", "text-to-image", _pixart_call, "-sizes", sizes=True),
    _specimen("PixArtSigma", "text-to-image", _pixart_call),
    _specimen("PixArtSigmaPAG", "text-to-image", _pixart_call, pag_applied_layers=["blocks.1"]),
    _specimen("Sana", "text-to-image", _sana_call),
    _specimen("Sana", "text-to-image", _instructed, "-instruction"),
    _specimen("SanaPAG", "text-to-image", _sana_call, **PAG),
    _specimen("SanaSprint", "text-to-image", _sprint),
    _specimen("SanaSprintImg2Img", "image-to-image", lambda i: _sprint(i, image=image(i, SIZE), strength=0.5)),
    _specimen(
        "SanaControlNet", "ControlNet", lambda i: _sana_call(i, control_image=image(i, SIZE)), controlnet=True
    ),
]  # fmt: skip
