"""HunyuanVideo, its relations, and Kandinsky 5, which has its VAE."""

from typing import Any

from diffusers import (
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    HunyuanSkyreelsImageToVideoPipeline,
    HunyuanVideo15ImageToVideoPipeline,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoFramepackPipeline,
    HunyuanVideoFramepackTransformer3DModel,
    HunyuanVideoImageToVideoPipeline,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    Kandinsky5I2VPipeline,
    Kandinsky5T2VPipeline,
    Kandinsky5Transformer3DModel,
)
from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

from .specimen import Specimen
from .text import assemble, call, clip_text, clip_tokenizer, image, noise, t5_encoder, t5_tokenizer
from .text_llm import llama, llm_tokenizer, qwen2_5_vl, qwen2_processor

SIDE = 16
FRAMES = 5
LATENT = 4


def hunyuan_vae() -> AutoencoderKLHunyuanVideo:
    """Four frames to one, eight pixels a side to one."""
    return AutoencoderKLHunyuanVideo(
        latent_channels=LATENT, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4
    )


def _siglip() -> dict[str, Any]:
    config = SiglipVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    processor = SiglipImageProcessor(size={"height": 16, "width": 16})
    return {"image_encoder": SiglipVisionModel(config), "feature_extractor": processor}


def _hunyuan(cls: type, in_channels: int = LATENT, model: type = HunyuanVideoTransformer3DModel, **changes: Any) -> Any:
    eyes = {"feature_extractor", "image_encoder", "image_processor"} & changes.keys()
    components = {name: changes.pop(name) for name in eyes}
    transformer = model(
        in_channels=in_channels, out_channels=LATENT, num_attention_heads=2, attention_head_dim=12, num_layers=1,
        num_single_layers=1, num_refiner_layers=1, text_embed_dim=32, pooled_projection_dim=32,
        rope_axes_dim=(4, 4, 4), **changes,
    )  # fmt: skip
    reads = cls is not HunyuanVideoImageToVideoPipeline
    return assemble(
        cls, transformer=transformer, vae=hunyuan_vae(), scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder=llama(layers=3).model if reads else None, tokenizer=llm_tokenizer() if reads else None,
        text_encoder_2=clip_text() if reads else None, tokenizer_2=clip_tokenizer() if reads else None, **components,
    )  # fmt: skip


def _video(i: int, **more: Any) -> dict[str, Any]:
    return call(i, **({"height": SIDE, "width": SIDE, "num_frames": FRAMES} | more))


def _templated(i: int, **more: Any) -> dict[str, Any]:
    return _video(i, prompt_template={"template": "user {}", "crop_start": 1}, max_sequence_length=12, **more)


def _true_guidance(i: int) -> dict[str, Any]:
    return {"negative_prompt": "bad quality", "guidance_scale": None, "true_cfg_scale": (4.0, 3.0, 5.0, 2.0)[i % 4]}


def _embedded(i: int, **more: Any) -> dict[str, Any]:
    """For the class whose text encoder, a Llava, reads the image too."""
    embeds = {"prompt_embeds": noise(i, 1, 12, 32), "pooled_prompt_embeds": noise(i + 500, 1, 32)}
    return _video(i, prompt=None, image=image(i, SIDE), **embeds, **more) | {
        "prompt_attention_mask": noise(i, 1, 12).isfinite()
    }


def _hunyuan15(cls: type, **components: Any) -> Any:
    transformer = HunyuanVideo15Transformer3DModel(
        in_channels=2 * LATENT + 1, out_channels=LATENT, num_attention_heads=2, attention_head_dim=12, num_layers=2,
        num_refiner_layers=1, text_embed_dim=32, text_embed_2_dim=32, image_embed_dim=16, rope_axes_dim=(4, 4, 4),
        target_size=SIDE,
    )  # fmt: skip
    vae = AutoencoderKLHunyuanVideo15(
        latent_channels=LATENT, block_out_channels=(16, 16, 16, 16), layers_per_block=1, spatial_compression_ratio=8
    )
    pipe = assemble(
        cls, transformer=transformer, vae=vae, scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder=qwen2_5_vl(layers=3).model.language_model, tokenizer=llm_tokenizer(), guider=_guider(),
        text_encoder_2=t5_encoder(), tokenizer_2=t5_tokenizer(), **components,
    )  # fmt: skip
    # These lengths are no arguments of the call.
    pipe.tokenizer_max_length, pipe.tokenizer_2_max_length, pipe.vision_num_semantic_tokens = 24, 16, 4
    return pipe


def _guider() -> ClassifierFreeGuidance:
    return ClassifierFreeGuidance(guidance_scale=6.0)


def _hunyuan15_arguments(i: int, **more: Any) -> dict[str, Any]:
    """Its guidance is its guider's, no request's; a quoted word is also read by the second text encoder."""
    arguments = _video(i, guidance_scale=None, **more)
    return arguments | {"prompt": f'{arguments["prompt"]} "hen"'}


def _kandinsky5(cls: type, visual_cond: bool = False) -> Any:
    transformer = Kandinsky5Transformer3DModel(
        in_visual_dim=LATENT, out_visual_dim=LATENT, in_text_dim=32, in_text_dim2=32, time_dim=16, model_dim=24,
        ff_dim=32, num_text_blocks=1, num_visual_blocks=2, axes_dims=(4, 4, 4), visual_cond=visual_cond,
    )  # fmt: skip
    return assemble(
        cls, transformer=transformer, vae=hunyuan_vae(), scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
        text_encoder=qwen2_5_vl(), tokenizer=qwen2_processor(max_length=256), text_encoder_2=clip_text(),
        tokenizer_2=clip_tokenizer(),
    )  # fmt: skip


SPECIMENS = [
    Specimen(
        "HunyuanVideoPipeline", "HunyuanVideo", "text-to-video", lambda: _hunyuan(HunyuanVideoPipeline), _templated,
    ),
    Specimen(
        "HunyuanVideoImageToVideoPipeline", "HunyuanVideo", "image-to-video",
        lambda: _hunyuan(
            HunyuanVideoImageToVideoPipeline, 2 * LATENT + 1, image_condition_type="latent_concat",
            image_processor=None, guidance_embeds=False,
        ),
        _embedded,
    ),
    Specimen(
        "HunyuanVideoImageToVideoPipeline-replacing", "HunyuanVideo", "image-to-video",
        lambda: _hunyuan(
            HunyuanVideoImageToVideoPipeline, image_condition_type="token_replace", image_processor=None,
        ),
        _embedded,
    ),
    Specimen(
        "HunyuanSkyreelsImageToVideoPipeline", "HunyuanVideo", "image-to-video",
        lambda: _hunyuan(HunyuanSkyreelsImageToVideoPipeline, 2 * LATENT, guidance_embeds=False),
        lambda i: _templated(i, image=image(i, SIDE), **_true_guidance(i)),
    ),
    Specimen(
        "HunyuanVideoFramepackPipeline", "HunyuanVideo", "image-to-video",
        lambda: _hunyuan(
            HunyuanVideoFramepackPipeline, model=HunyuanVideoFramepackTransformer3DModel, has_image_proj=True,
            image_proj_dim=16, has_clean_x_embedder=True, **_siglip(),
        ),
        lambda i: _templated(i, image=image(i, SIDE), num_frames=9, latent_window_size=2),
    ),
    Specimen(
        "HunyuanVideo15Pipeline", "HunyuanVideo", "text-to-video", lambda: _hunyuan15(HunyuanVideo15Pipeline),
        _hunyuan15_arguments,
    ),
    Specimen(
        "HunyuanVideo15ImageToVideoPipeline", "HunyuanVideo", "image-to-video",
        lambda: _hunyuan15(HunyuanVideo15ImageToVideoPipeline, **_siglip()),
        lambda i: _hunyuan15_arguments(i, image=image(i, SIDE), height=None, width=None),
    ),
    Specimen(
        "Kandinsky5T2VPipeline", "Kandinsky 5", "text-to-video", lambda: _kandinsky5(Kandinsky5T2VPipeline), _video,
    ),
    Specimen(
        "Kandinsky5I2VPipeline", "Kandinsky 5", "image-to-video", lambda: _kandinsky5(Kandinsky5I2VPipeline, True),
        # It evens the first four latent frames out by those that follow.
        lambda i: _video(i, image=image(i, SIDE), num_frames=21),
    ),
]  # fmt: skip
