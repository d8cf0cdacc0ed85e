"""LTX-2: a video and its sound by one transformer, as many as four times a step."""

from typing import Any

from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    FlowMatchEulerDiscreteScheduler,
    LTX2ConditionPipeline,
    LTX2ImageToVideoPipeline,
    LTX2LatentUpsamplePipeline,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
)
from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
from diffusers.pipelines.ltx2.latent_upsampler import LTX2LatentUpsamplerModel
from diffusers.pipelines.ltx2.pipeline_ltx2_condition import LTX2VideoCondition
from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from .specimen import Specimen
from .text import assemble, call, generator, image
from .text_llm import IDS, VOCABULARY, llm_tokenizer

SIDE = 32
FRAMES = 5


def _reader() -> Gemma3ForConditionalGeneration:
    words = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "head_dim": 16,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "query_pre_attn_scalar": 16,
    }  # fmt: skip
    eyes = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16,
        "patch_size": 8, "vision_use_head": False,
    }  # fmt: skip
    tokens = {"image_token_index": IDS["<|image_pad|>"], "boi_token_index": IDS["<img>"], "mm_tokens_per_image": 4}
    return Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=words, vision_config=eyes, eoi_token_index=IDS["</img>"], **tokens)
    )


def _vae() -> AutoencoderKLLTX2Video:
    """Four frames to one, eight pixels a side to one."""
    return AutoencoderKLLTX2Video(
        latent_channels=8, block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1), spatio_temporal_scaling=(True, True), patch_size=2,
        decoder_spatio_temporal_scaling=(True, True), decoder_inject_noise=(False, False, False),
        down_block_types=("LTX2VideoDownBlock3D",) * 2, downsample_type=("spatiotemporal",) * 2,
        upsample_type=("spatiotemporal",) * 2, upsample_residual=(False, False), upsample_factor=(1, 1),
    )  # fmt: skip


def _ltx2(cls: type) -> Any:
    transformer = LTX2VideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16,
        vae_scale_factors=(4, 8, 8), audio_in_channels=4, audio_out_channels=4, audio_num_attention_heads=2,
        audio_attention_head_dim=4, audio_cross_attention_dim=8, num_layers=2, caption_channels=32,
        perturbed_attn=True,
    )  # fmt: skip
    connectors = LTX2TextConnectors(
        caption_channels=32, text_proj_in_factor=3, video_connector_num_attention_heads=4,
        video_connector_attention_head_dim=8, video_connector_num_layers=1, video_connector_num_learnable_registers=4,
        audio_connector_num_attention_heads=4, audio_connector_attention_head_dim=8, audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=4, connector_rope_base_seq_len=16,
    )  # fmt: skip
    audio_vae = AutoencoderKLLTX2Audio(
        base_channels=4, ch_mult=(1, 1, 1), num_res_blocks=1, resolution=32, latent_channels=2, mel_bins=8
    )
    vocoder = LTX2Vocoder(
        in_channels=16, hidden_channels=8, upsample_kernel_sizes=[4, 4], upsample_factors=[2, 2],
        resnet_kernel_sizes=[3], resnet_dilations=[[1, 3]],
    )  # fmt: skip
    return assemble(
        cls, transformer=transformer, connectors=connectors, vae=_vae(), audio_vae=audio_vae, vocoder=vocoder,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), text_encoder=_reader(),
        tokenizer=llm_tokenizer(),
    )  # fmt: skip


def _video(i: int, **more: Any) -> dict[str, Any]:
    size = {"height": SIDE, "width": SIDE, "num_frames": FRAMES, "max_sequence_length": 16}
    return call(i, spatio_temporal_guidance_blocks=[1], **(size | more))


SPECIMENS = [
    Specimen("LTX2Pipeline", "LTX-2", "text-to-video", lambda: _ltx2(LTX2Pipeline), _video),
    Specimen(
        "LTX2ImageToVideoPipeline", "LTX-2", "image-to-video", lambda: _ltx2(LTX2ImageToVideoPipeline),
        lambda i: _video(i, image=image(i, SIDE), image_crf=0),
    ),
    Specimen(
        "LTX2ConditionPipeline", "LTX-2", "image-to-video", lambda: _ltx2(LTX2ConditionPipeline),
        lambda i: _video(i, conditions=[LTX2VideoCondition(frames=image(i, SIDE), index=0, strength=0.9, crf=0)]),
    ),
    Specimen(
        "LTX2LatentUpsamplePipeline", "LTX-2", "super-resolution",
        lambda: assemble(
            LTX2LatentUpsamplePipeline, vae=_vae(),
            latent_upsampler=LTX2LatentUpsamplerModel(in_channels=8, mid_channels=32, num_blocks_per_stage=1),
        ),
        lambda i: {
            "video": [image(100 * i + frame, SIDE) for frame in range(FRAMES)], "height": SIDE, "width": SIDE,
            "num_frames": FRAMES, "generator": generator(i), "output_type": "np",
        },
    ),
]  # fmt: skip
