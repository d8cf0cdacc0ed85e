"""Wan and its relations: one denoiser or two, causal video VAE, a UMT5 text encoder."""

from typing import Any

from diffusers import (
    AnyFlowFARPipeline,
    AnyFlowFARTransformer3DModel,
    AnyFlowPipeline,
    AnyFlowTransformer3DModel,
    AutoencoderKLWan,
    ChronoEditPipeline,
    ChronoEditTransformer3DModel,
    FlowMapEulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LucyEditPipeline,
    SkyReelsV2DiffusionForcingImageToVideoPipeline,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2DiffusionForcingVideoToVideoPipeline,
    SkyReelsV2ImageToVideoPipeline,
    SkyReelsV2Pipeline,
    SkyReelsV2Transformer3DModel,
    UniPCMultistepScheduler,
    WanAnimatePipeline,
    WanAnimateTransformer3DModel,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
    WanVideoToVideoPipeline,
)

from .specimen import Specimen
from .text import (
    assemble,
    call,
    clip_image_processor,
    clip_vision,
    image,
    mask_image,
    noise,
    t5_tokenizer,
    umt5_encoder,
)

SIDE = 32
FRAMES = 5
# The models that also attend to an image take what precedes the last 512 tokens for it.
TEXT_LENGTH = 512
# The classes whose specimens read a prompt; the others are given embeddings.
READERS = (WanPipeline, AnyFlowPipeline, AnyFlowFARPipeline)


def wan_vae(z_dim: int = 16) -> AutoencoderKLWan:
    """Four frames to one, eight pixels a side to one."""
    moments = {} if z_dim == 16 else {"latents_mean": [0.0] * z_dim, "latents_std": [1.0] * z_dim}
    return AutoencoderKLWan(base_dim=4, z_dim=z_dim, dim_mult=[1, 1, 1, 1], num_res_blocks=1, **moments)


def unipc() -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def frames(i: int, count: int = FRAMES, side: int = SIDE) -> list[Any]:
    return [image(100 * i + frame, side) for frame in range(count)]


def _denoiser(model: type = WanTransformer3DModel, **changes: Any) -> Any:
    config = {
        "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 16, "out_channels": 16, "text_dim": 32,
        "freq_dim": 16, "ffn_dim": 32, "num_layers": 2, "rope_max_seq_len": 32,
    }  # fmt: skip
    return model(**(config | changes))


def _pipe(cls: type, transformer: Any, scheduler: Any = None, **components: Any) -> Any:
    reads = cls in READERS
    return assemble(
        cls, transformer=transformer, vae=wan_vae(), scheduler=unipc() if scheduler is None else scheduler,
        text_encoder=umt5_encoder() if reads else None, tokenizer=t5_tokenizer(TEXT_LENGTH) if reads else None,
        **components,
    )  # fmt: skip


def _with_eyes(cls: type, model: type = WanTransformer3DModel, in_channels: int = 36, **changes: Any) -> Any:
    transformer = _denoiser(model, in_channels=in_channels, image_dim=32, added_kv_proj_dim=24, **changes)
    eyes = {"image_encoder": clip_vision(projection=False), "image_processor": clip_image_processor()}
    return _pipe(cls, transformer, **eyes)


def _flow_map() -> FlowMapEulerDiscreteScheduler:
    return FlowMapEulerDiscreteScheduler(shift=3.0)


def _video(i: int, **more: Any) -> dict[str, Any]:
    return call(i, **({"height": SIDE, "width": SIDE, "num_frames": FRAMES, "max_sequence_length": 16} | more))


def _embedded(i: int, tokens: int = 8, **more: Any) -> dict[str, Any]:
    embeds = {"prompt_embeds": noise(i, 1, tokens, 32), "negative_prompt_embeds": noise(i + 500, 1, tokens, 32)}
    return _video(i, prompt=None, max_sequence_length=None, **embeds, **more)


def _animate() -> Any:
    channels = {str(2**power): 8 for power in range(2, 6)}
    return _with_eyes(
        WanAnimatePipeline, WanAnimateTransformer3DModel, latent_channels=16, motion_encoder_size=16,
        motion_encoder_channel_sizes=channels, motion_style_dim=8, motion_dim=4, motion_encoder_dim=8,
        face_encoder_hidden_dim=8, face_encoder_num_heads=2, inject_face_latents_blocks=1,
    )  # fmt: skip


def _animate_arguments(i: int) -> dict[str, Any]:
    inputs = {"image": image(i, SIDE), "pose_video": frames(i), "face_video": frames(i + 50)}
    return _embedded(i, TEXT_LENGTH, num_frames=None, segment_frame_length=FRAMES, **inputs)


def _vace() -> Any:
    return _denoiser(WanVACETransformer3DModel, vace_layers=[0], vace_in_channels=96)


def _vace_arguments(i: int) -> dict[str, Any]:
    return _embedded(i, video=frames(i), mask=[mask_image(SIDE)] * FRAMES, reference_images=[image(i + 50, SIDE)])


def _forcing(i: int, **more: Any) -> dict[str, Any]:
    return _embedded(i, addnoise_condition=0, base_num_frames=FRAMES, **more)


SPECIMENS = [
    Specimen(
        "WanPipeline", "Wan", "text-to-video", lambda: _pipe(WanPipeline, _denoiser()), _video,
    ),
    Specimen(
        "WanPipeline-two", "Wan", "text-to-video",
        lambda: _pipe(WanPipeline, _denoiser(), transformer_2=_denoiser(), boundary_ratio=0.875),
        lambda i: _video(i, guidance_scale_2=(3.0, 4.0, 2.0, 5.0)[i % 4]),
    ),
    Specimen(
        "WanPipeline-expanded", "Wan", "text-to-video",
        lambda: _pipe(WanPipeline, _denoiser(), FlowMatchEulerDiscreteScheduler(shift=5.0), expand_timesteps=True),
        _video,
    ),
    Specimen(
        "WanImageToVideoPipeline", "Wan", "image-to-video", lambda: _with_eyes(WanImageToVideoPipeline),
        lambda i: _embedded(i, TEXT_LENGTH, image=image(i, SIDE)),
    ),
    Specimen(
        "WanImageToVideoPipeline-two", "Wan", "image-to-video",
        lambda: _pipe(
            WanImageToVideoPipeline, _denoiser(in_channels=36), image_encoder=None, image_processor=None,
            transformer_2=_denoiser(in_channels=36), boundary_ratio=0.875,
        ),
        lambda i: _embedded(i, image=image(i, SIDE), guidance_scale_2=(3.0, 4.0, 2.0, 5.0)[i % 4]),
    ),
    Specimen(
        "WanImageToVideoPipeline-expanded", "Wan", "image-to-video",
        lambda: _pipe(WanImageToVideoPipeline, _denoiser(), expand_timesteps=True),
        lambda i: _embedded(i, image=image(i, SIDE)),
    ),
    Specimen(
        "WanVideoToVideoPipeline", "Wan", "video-to-video", lambda: _pipe(WanVideoToVideoPipeline, _denoiser()),
        lambda i: _embedded(i, num_frames=None, video=frames(i), strength=0.8),
    ),
    Specimen(
        "WanVACEPipeline", "Wan", "video-to-video", lambda: _pipe(WanVACEPipeline, _vace(), transformer_2=None),
        _vace_arguments,
    ),
    Specimen(
        "WanVACEPipeline-two", "Wan", "video-to-video",
        lambda: _pipe(WanVACEPipeline, _vace(), transformer_2=_vace(), boundary_ratio=0.875), _vace_arguments,
    ),
    Specimen("WanAnimatePipeline", "Wan", "video-to-video", _animate, _animate_arguments),
    Specimen(
        "SkyReelsV2Pipeline", "SkyReelsV2", "text-to-video",
        lambda: _pipe(SkyReelsV2Pipeline, _denoiser(SkyReelsV2Transformer3DModel)), _embedded,
    ),
    Specimen(
        "SkyReelsV2ImageToVideoPipeline", "SkyReelsV2", "image-to-video",
        lambda: _with_eyes(SkyReelsV2ImageToVideoPipeline, SkyReelsV2Transformer3DModel),
        lambda i: _embedded(i, TEXT_LENGTH, image=image(i, SIDE)),
    ),
    Specimen(
        "SkyReelsV2DiffusionForcingPipeline", "SkyReelsV2", "text-to-video",
        lambda: _pipe(
            SkyReelsV2DiffusionForcingPipeline, _denoiser(SkyReelsV2Transformer3DModel, inject_sample_info=True)
        ),
        lambda i: _forcing(i) | {"prompt": None},
    ),
    Specimen(
        "SkyReelsV2DiffusionForcingPipeline-asynchronous", "SkyReelsV2", "text-to-video",
        lambda: _pipe(SkyReelsV2DiffusionForcingPipeline, _denoiser(SkyReelsV2Transformer3DModel)),
        lambda i: _forcing(i, num_frames=9, ar_step=2, causal_block_size=1) | {"prompt": None, "base_num_frames": 9},
    ),
    Specimen(
        "SkyReelsV2DiffusionForcingImageToVideoPipeline", "SkyReelsV2", "image-to-video",
        lambda: _pipe(SkyReelsV2DiffusionForcingImageToVideoPipeline, _denoiser(SkyReelsV2Transformer3DModel)),
        lambda i: _forcing(i, image=image(i, SIDE)),
    ),
    Specimen(
        "SkyReelsV2DiffusionForcingVideoToVideoPipeline", "SkyReelsV2", "video-to-video",
        lambda: _pipe(SkyReelsV2DiffusionForcingVideoToVideoPipeline, _denoiser(SkyReelsV2Transformer3DModel)),
        lambda i: _forcing(i, video=frames(i), num_frames=9, overlap_history=1),
    ),
    Specimen(
        "ChronoEditPipeline", "ChronoEdit", "image editing",
        lambda: _with_eyes(ChronoEditPipeline, ChronoEditTransformer3DModel),
        lambda i: _embedded(
            i, TEXT_LENGTH, image=image(i, SIDE), num_frames=9,
            enable_temporal_reasoning=True, num_temporal_reasoning_steps=2,
        ),
    ),
    Specimen(
        "LucyEditPipeline", "Lucy", "video-to-video", lambda: _pipe(LucyEditPipeline, _denoiser(in_channels=32)),
        lambda i: _embedded(i, video=frames(i)),
    ),
    Specimen(
        "AnyFlowPipeline", "AnyFlow", "text-to-video",
        lambda: _pipe(AnyFlowPipeline, _denoiser(AnyFlowTransformer3DModel), _flow_map()), _video,
    ),
    Specimen(
        "AnyFlowFARPipeline", "AnyFlow", "text-to-video",
        lambda: _pipe(
            AnyFlowFARPipeline,
            _denoiser(AnyFlowFARTransformer3DModel, chunk_partition=(1, 1), compressed_patch_size=(1, 2, 2)),
            _flow_map(),
        ),
        _video,
    ),
]  # fmt: skip
