"""Transformers that read a Qwen3-VL or a Mistral: Krea, Nucleus, Ideogram, JoyImage, Ernie, DreamLite, QwenImage21."""

from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderKLQwenImage21,
    AutoencoderTiny,
    DreamLiteUNetModel,
    ErnieImageTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    Ideogram4Transformer2DModel,
    JoyImageEditTransformer3DModel,
    Krea2Transformer2DModel,
    NucleusMoEImageTransformer2DModel,
    QwenImage21Transformer2DModel,
)
from diffusers.pipelines.joyimage.image_processor import JoyImageEditImageProcessor

from .dit_bria import wan_vae
from .dit_flux2 import flux2_vae
from .dit_gain import assemble
from .qwen_image import qwen_vae
from .specimen import Specimen
from .text import call, image
from .text_llm import llm_tokenizer, mistral3, qwen3_processor, qwen3_vl

SIZE = 32


def _build(name: str, **parts: Any) -> Any:
    return assemble(getattr(diffusers, f"{name}Pipeline"), **({"scheduler": FlowMatchEulerDiscreteScheduler()} | parts))


def krea_transformer(**changes: Any) -> Krea2Transformer2DModel:
    config = {
        "in_channels": 16, "num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2,
        "num_key_value_heads": 1, "intermediate_size": 40, "timestep_embed_dim": 16, "text_hidden_dim": 32,
        "num_text_layers": 2, "text_num_attention_heads": 2, "text_num_key_value_heads": 2, "axes_dims_rope": (8, 4, 4),
        "text_intermediate_size": 40, "num_layerwise_text_blocks": 1, "num_refiner_text_blocks": 1,
    }  # fmt: skip
    return Krea2Transformer2DModel(**(config | changes))


def _krea() -> Any:
    return _build(
        "Krea2", vae=qwen_vae(), text_encoder=qwen3_vl().model, tokenizer=llm_tokenizer(),
        transformer=krea_transformer(), text_encoder_select_layers=(1, 2),
    )  # fmt: skip


def _nucleus() -> Any:
    transformer = NucleusMoEImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=5, attention_head_dim=16, num_attention_heads=2,
        num_key_value_heads=1, joint_attention_dim=32, axes_dims_rope=(8, 4, 4), mlp_ratio=6.0, num_experts=4,
        moe_intermediate_dim=16, capacity_factors=2.0,
    )  # fmt: skip
    for name, parameter in transformer.named_parameters():
        if "experts." in name:  # which the class leaves to the checkpoint
            torch.nn.init.normal_(parameter, std=0.1)
    return _build(
        "NucleusMoEImage",
        vae=qwen_vae(),
        text_encoder=qwen3_vl(layers=3),
        processor=qwen3_processor(),
        transformer=transformer,
    )


def _ideogram() -> Any:
    """The class reads thirteen of thirty-six layers."""

    def transformer() -> Ideogram4Transformer2DModel:
        return Ideogram4Transformer2DModel(
            in_channels=16, num_layers=2, attention_head_dim=16, num_attention_heads=2, intermediate_size=40,
            adaln_dim=16, llm_features_dim=13 * 16, mrope_section=(4, 2, 2),
        )  # fmt: skip

    return _build(
        "Ideogram4", vae=flux2_vae(), text_encoder=qwen3_vl(16, 36).model, tokenizer=llm_tokenizer(),
        transformer=transformer(), unconditional_transformer=transformer(),
    )  # fmt: skip


class SmallImages(JoyImageEditImageProcessor):
    """The class's own sizes are of a million pixels."""

    def get_default_height_width(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        return SIZE, SIZE


def _joy() -> Any:
    transformer = JoyImageEditTransformer3DModel(
        in_channels=4, hidden_size=32, num_attention_heads=2, text_dim=32, mlp_width_ratio=2.0, num_layers=2,
        rope_dim_list=[8, 4, 4],
    )  # fmt: skip
    pipe = _build(
        "JoyImageEdit", vae=wan_vae(), text_encoder=qwen3_vl(), tokenizer=llm_tokenizer(), transformer=transformer,
        processor=qwen3_processor(), gain=4.0,
    )  # fmt: skip
    pipe.vae_image_processor = SmallImages(vae_scale_factor=4)
    return pipe


def _ernie() -> Any:
    transformer = ErnieImageTransformer2DModel(
        hidden_size=32, num_attention_heads=2, num_layers=2, ffn_hidden_size=40, in_channels=16, out_channels=16,
        text_in_dim=32, rope_axes_dim=(8, 4, 4),
    )  # fmt: skip
    vae = flux2_vae(
        block_out_channels=(16, 16, 16, 32), down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
    )  # fmt: skip
    return _build(
        "ErnieImage", vae=vae, text_encoder=mistral3().model, tokenizer=llm_tokenizer(), transformer=transformer,
        pe=None, pe_tokenizer=None,
    )  # fmt: skip


def _dreamlite(name: str) -> Any:
    unet = DreamLiteUNetModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(16, 16, 32), layers_per_block=1,
        norm_num_groups=8, cross_attention_dim=32, attention_head_dim=8, ff_mult=2, num_kv_heads=1,
    )  # fmt: skip
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )  # fmt: skip
    return _build(
        name,
        text_encoder=qwen3_vl(),
        tokenizer=llm_tokenizer(),
        processor=qwen3_processor(),
        vae=vae,
        unet=unet,
        gain=3.0,
    )


def _qwen_image_21() -> Any:
    """The VAE halves four times: the class takes sixteen for granted."""
    vae = AutoencoderKLQwenImage21(
        base_dim=4, decoder_base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 2, 2], num_res_blocks=1,
        temperal_downsample=[False] * 4, latents_mean=[0.1, -0.2, 0.0, 0.2], latents_std=[1.0, 0.9, 1.2, 1.1],
    )  # fmt: skip
    transformer = QwenImage21Transformer2DModel(
        in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2, context_in_dim=32,
        axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    return _build(
        "QwenImage21", vae=vae, text_encoder=qwen3_vl(), processor=qwen3_processor(64 * 64), transformer=transformer
    )


def _call(i: int, size: int | None = SIZE, length: int | None = 16, **more: Any) -> dict[str, Any]:
    common = {"height": size, "width": size, "max_sequence_length": length, "negative_prompt": "bad quality"}
    return call(i, **(common | more))


def _true_cfg(i: int, **more: Any) -> dict[str, Any]:
    scale = (4.0, 3.0, 5.0, 2.0)[i % 4]
    return _call(i, 64, None, guidance_scale=None, true_cfg_scale=scale, output_resolution=64, **more)


def _guided(i: int) -> dict[str, Any]:
    """A schedule is the default, a scale the alternative."""
    return _call(i, negative_prompt=None) | {"guidance_schedule": None}


def _specimen(name: str, family: str, task: str, build: Any, arguments: Any) -> Specimen:
    base, _, suffix = name.partition("-")
    return Specimen(f"{base}Pipeline" + (f"-{suffix}" if suffix else ""), family, task, build, arguments)


SPECIMENS = [
    _specimen("Krea2", "Krea", "text-to-image", _krea, _call),
    _specimen("NucleusMoEImage", "Nucleus", "text-to-image", _nucleus, lambda i: _call(i, length=64, return_index=-2)),
    _specimen("Ideogram4", "Ideogram", "text-to-image", _ideogram, _guided),
    _specimen("JoyImageEdit", "JoyImage", "image editing", _joy, lambda i: _call(i, image=image(i), length=64)),
    _specimen("ErnieImage", "Ernie", "text-to-image", _ernie, lambda i: _call(i, length=None, use_pe=False)),
    _specimen("DreamLite", "DreamLite", "text-to-image", lambda: _dreamlite("DreamLite"), _call),
    _specimen(
        "DreamLite-edit", "DreamLite", "image editing", lambda: _dreamlite("DreamLite"),
        lambda i: _call(i, image=image(i)),
    ),
    _specimen(
        "DreamLiteMobile", "DreamLite", "text-to-image", lambda: _dreamlite("DreamLiteMobile"),
        lambda i: _call(i, negative_prompt=None, guidance_scale=None),
    ),
    _specimen("QwenImage21", "Qwen-Image", "text-to-image", _qwen_image_21, _true_cfg),
    _specimen(
        "QwenImage21-reference", "Qwen-Image", "image editing", _qwen_image_21,
        lambda i: _true_cfg(i, image=image(i, 64)),
    ),
]  # fmt: skip
