"""Transformers of one prompt encoder: AuraFlow, Chroma, Lumina, CogView, and the like."""

from typing import Any

import diffusers
from diffusers import (
    AuraFlowTransformer2DModel,
    ChromaTransformer2DModel,
    CogVideoXDDIMScheduler,
    CogView3PlusTransformer2DModel,
    CogView4Transformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    Lumina2Transformer2DModel,
    LuminaNextDiT2DModel,
)

from .dit_gain import assemble
from .specimen import Specimen
from .text import call, image, kl_vae, mask_image, t5_encoder, t5_tokenizer, umt5_encoder
from .text_llm import gemma, gemma2, glm, llm_tokenizer

SIZE = 32


def _build(name: str, transformer: Any, text_encoder: Any, tokenizer: Any, **parts: Any) -> Any:
    common = {"scheduler": FlowMatchEulerDiscreteScheduler(), "vae": kl_vae(shift_factor=0.1, scaling_factor=0.5)}
    return assemble(
        getattr(diffusers, f"{name}Pipeline"),
        transformer=transformer, text_encoder=text_encoder, tokenizer=tokenizer, **(common | parts),
    )  # fmt: skip


def _aura_flow() -> Any:
    transformer = AuraFlowTransformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=32, out_channels=4, pos_embed_max_size=64,
    )  # fmt: skip
    return _build("AuraFlow", transformer, umt5_encoder(), t5_tokenizer())


def _chroma(name: str) -> Any:
    transformer = ChromaTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=(4, 4, 8), approximator_num_channels=8, approximator_hidden_dim=32,
        approximator_layers=1,
    )  # fmt: skip
    transformer.register_to_config(guidance_embeds=False)  # which inpainting asks for, though the class has it not
    return _build(name, transformer, t5_encoder(), t5_tokenizer())


def _lumina() -> Any:
    transformer = LuminaNextDiT2DModel(
        sample_size=16, patch_size=2, in_channels=4, hidden_size=32, num_layers=2, num_attention_heads=2,
        num_kv_heads=1, multiple_of=16, cross_attention_dim=32,
    )  # fmt: skip
    return _build("Lumina", transformer, gemma(), llm_tokenizer(), vae=kl_vae((16, 32, 32, 32)))


def _lumina2() -> Any:
    transformer = Lumina2Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, hidden_size=32, num_layers=1, num_refiner_layers=1,
        num_attention_heads=2, num_kv_heads=1, multiple_of=16, axes_dim_rope=(8, 4, 4), axes_lens=(96, 32, 32),
        cap_feat_dim=32,
    )  # fmt: skip
    vae = kl_vae((16, 32, 32, 32), shift_factor=0.1, scaling_factor=0.5)
    return _build("Lumina2", transformer, gemma2(), llm_tokenizer(), vae=vae)


def _cog_view(name: str, kind: type, text_encoder: Any, tokenizer: Any, channels: int = 4, **parts: Any) -> Any:
    sizes = {"rope_axes_dim": (8, 8)} if kind is CogView4Transformer2DModel else {"pos_embed_max_size": 16}
    transformer = kind(
        in_channels=channels, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        text_embed_dim=32, time_embed_dim=8, condition_dim=4, sample_size=16, **sizes,
    )  # fmt: skip
    return _build(name, transformer, text_encoder, tokenizer, **parts)


def _cog_view_3() -> Any:
    return _cog_view(
        "CogView3Plus", CogView3PlusTransformer2DModel, t5_encoder(), t5_tokenizer(), scheduler=CogVideoXDDIMScheduler()
    )


def _cog_view_4(name: str, channels: int = 4) -> Any:
    return _cog_view(name, CogView4Transformer2DModel, glm(), llm_tokenizer(padding_side="left"), channels)


def _call(i: int, *inputs: str, size: int = SIZE, length: int = 16, **more: Any) -> dict[str, Any]:
    drawn = {name: mask_image(size) if "mask" in name else image(i + 10 * k, size) for k, name in enumerate(inputs)}
    common = {"height": size, "width": size, "max_sequence_length": length, "negative_prompt": "bad quality"}
    return call(i, **(common | drawn | more))


def _strong(i: int, *inputs: str, **more: Any) -> dict[str, Any]:
    return _call(i, *inputs, strength=0.8, num_inference_steps=(5, 6, 8, 4)[i % 4], **more)


def _specimen(name: str, family: str, task: str, build: Any, arguments: Any) -> Specimen:
    return Specimen(f"{name}Pipeline", family, task, build, arguments)


SPECIMENS = [
    _specimen("AuraFlow", "AuraFlow", "text-to-image", _aura_flow, _call),
    _specimen("Chroma", "Chroma", "text-to-image", lambda: _chroma("Chroma"), _call),
    _specimen(
        "ChromaImg2Img", "Chroma", "image-to-image", lambda: _chroma("ChromaImg2Img"), lambda i: _strong(i, "image")
    ),
    _specimen(
        "ChromaInpaint", "Chroma", "inpainting", lambda: _chroma("ChromaInpaint"),
        lambda i: _strong(i, "image", "mask_image"),
    ),
    _specimen("Lumina", "Lumina", "text-to-image", _lumina, lambda i: _call(i, clean_caption=False)),
    _specimen("Lumina2", "Lumina", "text-to-image", _lumina2, lambda i: _call(i, length=48)),
    _specimen("CogView3Plus", "CogView", "text-to-image", _cog_view_3, _call),
    _specimen("CogView4", "CogView", "text-to-image", lambda: _cog_view_4("CogView4"), _call),
    _specimen(
        "CogView4Control", "CogView", "ControlNet", lambda: _cog_view_4("CogView4Control", 8),
        lambda i: _call(i, "control_image"),
    ),
]  # fmt: skip
