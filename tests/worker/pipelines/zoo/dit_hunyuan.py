"""Hunyuan-DiT (a BERT and a T5, skips, a ControlNet, perturbed attention), HunyuanImage and its refiner, HiDream."""

from typing import Any

import diffusers
from diffusers import (
    AutoencoderKLHunyuanImage,
    AutoencoderKLHunyuanImageRefiner,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    HiDreamImageTransformer2DModel,
    HunyuanDiT2DControlNetModel,
    HunyuanDiT2DModel,
    HunyuanImageTransformer2DModel,
)
from diffusers.guiders import AdaptiveProjectedMixGuidance
from transformers import BertConfig, BertModel

from .dit_gain import assemble
from .specimen import Specimen
from .text import (
    call,
    clip_text,
    clip_tokenizer,
    image,
    kl_vae,
    prompt,
    t5_encoder,
    t5_tokenizer,
    word_tokenizer,
)
from .text_llm import llama, llm_tokenizer, qwen2_5_vl

SIZE = 32
DISTILLED = ("guidance_embeds", "use_meanflow")


def _bert() -> BertModel:
    return BertModel(
        BertConfig(
            vocab_size=160, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40,
            max_position_embeddings=80,
        )
    )  # fmt: skip


def _dit(name: str, controlnet: bool = False, **parts: Any) -> Any:
    width = {
        "sample_size": 16, "in_channels": 4, "patch_size": 2, "num_attention_heads": 2, "attention_head_dim": 16,
        "hidden_size": 32, "cross_attention_dim": 32, "cross_attention_dim_t5": 32, "pooled_projection_dim": 16,
        "text_len": 77, "text_len_t5": 256, "activation_fn": "gelu-approximate",
    }  # fmt: skip
    if controlnet:
        parts["controlnet"] = HunyuanDiT2DControlNetModel(transformer_num_layers=4, **width)
    return assemble(
        getattr(diffusers, f"{name}Pipeline"),
        vae=kl_vae((16, 16, 32, 32)),  # eight times smaller, as the class has it
        text_encoder=_bert(), tokenizer=word_tokenizer(),
        text_encoder_2=t5_encoder(), tokenizer_2=t5_tokenizer(),
        transformer=HunyuanDiT2DModel(num_layers=4, mlp_ratio=2.0, **width),
        scheduler=DDPMScheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False, **parts,
    )  # fmt: skip


def _dit_call(i: int, **more: Any) -> dict[str, Any]:
    sizes = {"height": SIZE, "width": SIZE, "use_resolution_binning": False}
    return call(i, negative_prompt="bad quality", **sizes, **more)


def _image_transformer(patch: tuple[int, ...], channels: int, **changes: Any) -> HunyuanImageTransformer2DModel:
    axes = (8, 8) if len(patch) == 2 else (8, 4, 4)
    config = {
        "in_channels": channels, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 1,
        "num_single_layers": 1, "num_refiner_layers": 1, "patch_size": patch, "text_embed_dim": 32,
        "rope_axes_dim": axes,
    }  # fmt: skip
    return HunyuanImageTransformer2DModel(**(config | changes))


def _hunyuan_image(name: str, vae: Any, transformer: Any, guided: bool, **parts: Any) -> Any:
    guider = AdaptiveProjectedMixGuidance(adaptive_projected_guidance_start_step=2) if guided else None
    pipe = assemble(
        getattr(diffusers, name),
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=vae, transformer=transformer,
        text_encoder=qwen2_5_vl(layers=3), tokenizer=llm_tokenizer(model_max_length=512), guider=guider, **parts,
    )  # fmt: skip
    pipe.tokenizer_max_length = 24
    return pipe


def _text_to_image(guided: bool) -> Any:
    vae = AutoencoderKLHunyuanImage(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32, 64), layers_per_block=1,
        spatial_compression_ratio=2, sample_size=32, scaling_factor=0.5,
    )  # fmt: skip
    transformer = _image_transformer((1, 1), 4, text_embed_2_dim=32, **dict.fromkeys(DISTILLED, not guided))
    parts = {"text_encoder_2": t5_encoder(), "tokenizer_2": t5_tokenizer(), "ocr_guider": None}
    pipe = _hunyuan_image("HunyuanImagePipeline", vae, transformer, guided, **parts)
    pipe.tokenizer_2_max_length = 16
    return pipe


def _refiner() -> Any:
    vae = AutoencoderKLHunyuanImageRefiner(
        latent_channels=4, block_out_channels=(32, 64), layers_per_block=1, spatial_compression_ratio=2,
        temporal_compression_ratio=1,
    )  # fmt: skip
    transformer = _image_transformer(
        (1, 1, 1), 16, out_channels=8, guidance_embeds=True
    )  # two frames of latents a token
    return _hunyuan_image("HunyuanImageRefinerPipeline", vae, transformer, guided=False)


def _image_call(i: int, **more: Any) -> dict[str, Any]:
    """A glyph to write, in quotes, goes to the second encoder."""
    scale = {"guidance_scale": None, "distilled_guidance_scale": (4.0, 3.0, 5.0, 2.0)[i % 4]}
    written = {"prompt": f'{prompt(i)} "{prompt(i + 1)}"', "negative_prompt": "bad quality"}
    return call(i, height=16, width=16, **(scale | written | more))


def _hidream() -> Any:
    transformer = HiDreamImageTransformer2DModel(
        patch_size=2, in_channels=4, out_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, caption_channels=[32, 32], text_emb_dim=32, num_routed_experts=2,
        num_activated_experts=1, axes_dims_rope=(8, 4, 4), max_resolution=(32, 32), llama_layers=[0, 1],
    )  # fmt: skip
    pipe = assemble(
        diffusers.HiDreamImagePipeline,
        scheduler=FlowMatchEulerDiscreteScheduler(), vae=kl_vae(shift_factor=0.1, scaling_factor=0.5),
        text_encoder=clip_text(16, projection=True), tokenizer=clip_tokenizer(),
        text_encoder_2=clip_text(16, projection=True), tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5_encoder(), tokenizer_3=t5_tokenizer(),
        text_encoder_4=llama(attn_implementation="eager"), tokenizer_4=llm_tokenizer(), transformer=transformer,
    )  # fmt: skip
    pipe.default_sample_size = SIZE // 2  # sides are scaled to this many latents
    return pipe


def _hidream_call(i: int) -> dict[str, Any]:
    return call(i, height=SIZE, width=SIZE, max_sequence_length=16, negative_prompt="bad quality")


def _specimen(name: str, task: str, build: Any, arguments: Any, family: str = "Hunyuan-DiT") -> Specimen:
    return Specimen(name, family, task, build, arguments)


IMAGE = "HunyuanImage"
SPECIMENS = [
    _specimen("HunyuanDiTPipeline", "text-to-image", lambda: _dit("HunyuanDiT"), _dit_call),
    _specimen(
        "HunyuanDiTPAGPipeline", "text-to-image", lambda: _dit("HunyuanDiTPAG", pag_applied_layers="blocks.1"),
        _dit_call,
    ),
    _specimen(
        "HunyuanDiTControlNetPipeline", "ControlNet", lambda: _dit("HunyuanDiTControlNet", controlnet=True),
        lambda i: _dit_call(i, control_image=image(i, SIZE)),
    ),
    _specimen("HunyuanImagePipeline", "text-to-image", lambda: _text_to_image(True), _image_call, IMAGE),
    _specimen("HunyuanImagePipeline-meanflow", "text-to-image", lambda: _text_to_image(False), _image_call, IMAGE),
    _specimen(
        "HunyuanImageRefinerPipeline", "image-to-image", _refiner, lambda i: _image_call(i, image=image(i, 16)), IMAGE
    ),
    _specimen("HiDreamImagePipeline", "text-to-image", _hidream, _hidream_call, "HiDream"),
]  # fmt: skip
