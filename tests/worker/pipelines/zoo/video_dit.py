"""Videos by transformers with a T5 text encoder: LTX, CogVideoX, Mochi, Allegro and Latte."""

from typing import Any

from diffusers import (
    AllegroPipeline,
    AllegroTransformer3DModel,
    AutoencoderKLAllegro,
    AutoencoderKLCogVideoX,
    AutoencoderKLLTXVideo,
    AutoencoderKLMochi,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXFunControlPipeline,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    CogVideoXVideoToVideoPipeline,
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LattePipeline,
    LatteTransformer3DModel,
    LTXConditionPipeline,
    LTXEulerAncestralRFScheduler,
    LTXI2VLongMultiPromptPipeline,
    LTXImageToVideoPipeline,
    LTXLatentUpsamplePipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    MochiPipeline,
    MochiTransformer3DModel,
)
from diffusers.pipelines.ltx.modeling_latent_upsampler import LTXLatentUpsamplerModel

from .specimen import Specimen
from .text import assemble, call, generator, image, kl_vae, t5_encoder, t5_tokenizer

SIDE = 16


def frames(i: int, count: int, side: int = SIDE) -> list[Any]:
    return [image(100 * i + frame, side) for frame in range(count)]


def _t5_pipe(cls: type, transformer: Any, vae: Any, scheduler: Any) -> Any:
    parts = {"transformer": transformer, "vae": vae, "scheduler": scheduler}
    return assemble(cls, text_encoder=t5_encoder(), tokenizer=t5_tokenizer(), **parts)


def _video(i: int, num_frames: int | None = 5, **more: Any) -> dict[str, Any]:
    size = {"height": SIDE, "width": SIDE, "num_frames": num_frames, "max_sequence_length": 16}
    return call(i, **(size | more))


def _wide(i: int, num_frames: int | None = 5, **more: Any) -> dict[str, Any]:
    return _video(i, num_frames, height=32, width=32, **more)


def ltx_vae(**changes: Any) -> AutoencoderKLLTXVideo:
    """Four frames to one, eight pixels a side to one."""
    return AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1), spatio_temporal_scaling=(True, True), patch_size=2,
        decoder_spatio_temporal_scaling=(True, True), decoder_inject_noise=(False, False, False),
        down_block_types=("LTXVideoDownBlock3D",) * 2, downsample_type=("conv",) * 2,
        upsample_residual=(False, False), upsample_factor=(1, 1), **changes,
    )  # fmt: skip


def _ltx(cls: type, timestep_conditioning: bool = False, scheduler: Any = None) -> Any:
    transformer = LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16,
        num_layers=2, caption_channels=32,
    )  # fmt: skip
    vae = ltx_vae(timestep_conditioning=timestep_conditioning)
    return _t5_pipe(cls, transformer, vae, scheduler or FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True))


def _cog(cls: type, in_channels: int = 4, scheduler: Any = None, **changes: Any) -> Any:
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=in_channels, out_channels=4, time_embed_dim=4,
        text_embed_dim=32, num_layers=2, sample_width=4, sample_height=4, sample_frames=5, max_text_seq_length=16,
        **changes,
    )  # fmt: skip
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2,
    )  # fmt: skip
    return _t5_pipe(cls, transformer, vae, scheduler or CogVideoXDDIMScheduler())


def _mochi() -> Any:
    transformer = MochiTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, num_layers=2, pooled_projection_dim=16, in_channels=12,
        text_embed_dim=32, time_embed_dim=8, max_sequence_length=16,
    )  # fmt: skip
    vae = AutoencoderKLMochi(
        encoder_block_out_channels=(32, 32, 32, 32), decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
    )  # fmt: skip
    return _t5_pipe(MochiPipeline, transformer, vae, FlowMatchEulerDiscreteScheduler(invert_sigmas=True))


def _allegro() -> Any:
    transformer = AllegroTransformer3DModel(
        num_attention_heads=2, attention_head_dim=24, in_channels=4, out_channels=4, num_layers=2,
        cross_attention_dim=48, caption_channels=32, sample_height=2, sample_width=2, sample_frames=6,
    )  # fmt: skip
    vae = AutoencoderKLAllegro(
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=2, sample_size=SIDE,
    )  # fmt: skip
    # This VAE decodes in tiles only.
    vae.enable_tiling()
    return _t5_pipe(AllegroPipeline, transformer, vae, EulerAncestralDiscreteScheduler())


def _latte() -> Any:
    transformer = LatteTransformer3DModel(
        sample_size=SIDE // 2, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=2, in_channels=4,
        out_channels=8, caption_channels=32, cross_attention_dim=16, attention_bias=True, norm_elementwise_affine=False,
        activation_fn="gelu-approximate", num_embeds_ada_norm=1000, norm_type="ada_norm_single", video_length=2,
    )  # fmt: skip
    return _t5_pipe(LattePipeline, transformer, kl_vae((8, 8)), DDIMScheduler(clip_sample=False))


SPECIMENS = [
    Specimen("LTXPipeline", "LTX", "text-to-video", lambda: _ltx(LTXPipeline), _wide),
    Specimen(
        "LTXImageToVideoPipeline", "LTX", "image-to-video",
        lambda: _ltx(LTXImageToVideoPipeline, timestep_conditioning=True),
        lambda i: _wide(i, image=image(i), decode_timestep=0.05, decode_noise_scale=0.025),
    ),
    Specimen(
        "LTXConditionPipeline", "LTX", "image-to-video",
        lambda: _ltx(LTXConditionPipeline, scheduler=FlowMatchEulerDiscreteScheduler()),
        lambda i: _wide(i, 9, image=image(i), strength=0.9),
    ),
    Specimen(
        "LTXI2VLongMultiPromptPipeline", "LTX", "image-to-video",
        lambda: _ltx(LTXI2VLongMultiPromptPipeline, scheduler=LTXEulerAncestralRFScheduler()),
        lambda i: _wide(
            i, 17, cond_image=image(i), temporal_tile_size=8, temporal_overlap=4, seed=i, decode_horizontal_tiles=1,
        ),
    ),
    Specimen(
        "LTXLatentUpsamplePipeline", "LTX", "super-resolution",
        lambda: assemble(
            LTXLatentUpsamplePipeline, vae=ltx_vae(),
            latent_upsampler=LTXLatentUpsamplerModel(in_channels=8, mid_channels=32, num_blocks_per_stage=1),
        ),
        lambda i: {
            "video": frames(i, 5), "height": SIDE, "width": SIDE, "generator": generator(i), "output_type": "np",
        },
    ),
    Specimen("CogVideoXPipeline", "CogVideoX", "text-to-video", lambda: _cog(CogVideoXPipeline), _wide),
    Specimen(
        "CogVideoXImageToVideoPipeline", "CogVideoX", "image-to-video",
        lambda: _cog(
            CogVideoXImageToVideoPipeline, 8, CogVideoXDPMScheduler(), use_rotary_positional_embeddings=True,
            use_learned_positional_embeddings=True,
        ),
        lambda i: _wide(i, image=image(i)),
    ),
    Specimen(
        "CogVideoXVideoToVideoPipeline", "CogVideoX", "video-to-video", lambda: _cog(CogVideoXVideoToVideoPipeline),
        lambda i: _wide(i, None, video=frames(i, 5, 32), strength=0.8),
    ),
    Specimen(
        "CogVideoXFunControlPipeline", "CogVideoX", "video-to-video", lambda: _cog(CogVideoXFunControlPipeline, 8),
        lambda i: _wide(i, None, control_video=frames(i, 5, 32)),
    ),
    Specimen("MochiPipeline", "Mochi", "text-to-video", _mochi, lambda i: _video(i, 7)),
    Specimen(
        "AllegroPipeline", "Allegro", "text-to-video", _allegro, lambda i: _video(i, 24, clean_caption=False),
    ),
    Specimen(
        "LattePipeline", "Latte", "text-to-video", _latte,
        lambda i: _video(i, None, max_sequence_length=None, video_length=2, clean_caption=False),
    ),
]  # fmt: skip
