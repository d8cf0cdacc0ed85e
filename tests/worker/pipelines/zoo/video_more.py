"""Videos by the transformers of Cosmos, EasyAnimate, Motif, Sana and Helios."""

from typing import Any

from diffusers import (
    AutoencoderKLCosmos,
    AutoencoderKLMagvit,
    ClassifierFreeGuidance,
    Cosmos2_5_PredictBasePipeline,
    Cosmos2VideoToWorldPipeline,
    CosmosTextToWorldPipeline,
    CosmosTransformer3DModel,
    CosmosVideoToWorldPipeline,
    DPMSolverMultistepScheduler,
    EasyAnimateInpaintPipeline,
    EasyAnimatePipeline,
    EasyAnimateTransformer3DModel,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeliosPipeline,
    HeliosPyramidPipeline,
    HeliosScheduler,
    HeliosTransformer3DModel,
    MotifVideoImage2VideoPipeline,
    MotifVideoPipeline,
    MotifVideoTransformer3DModel,
    SanaImageToVideoPipeline,
    SanaVideoPipeline,
    SanaVideoTransformer3DModel,
)
from transformers import SiglipImageProcessor
from transformers.models.t5gemma2.configuration_t5gemma2 import T5Gemma2EncoderConfig
from transformers.models.t5gemma2.modeling_t5gemma2 import T5Gemma2Encoder

from .specimen import Specimen
from .text import assemble, call, image, noise, t5_encoder, t5_tokenizer
from .text_llm import IDS, VOCABULARY, gemma2, llm_tokenizer, qwen2_5_vl
from .wan import frames, unipc, wan_vae

SIDE = 16
FRAMES = 5
LATENT = 4


class _Guardrail:
    """Stands in for the safety checker, without which no Cosmos pipeline is made, and which is not to be had here."""

    def to(self, device: Any) -> None:
        pass

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, video: Any) -> Any:
        return video


COSMOS = {
    "num_attention_heads": 2, "attention_head_dim": 16, "text_embed_dim": 32, "adaln_lora_dim": 4,
    "max_size": (4, 32, 32), "rope_scale": (2.0, 1.0, 1.0),
}  # fmt: skip


def _cosmos(in_channels: int = LATENT, **changes: Any) -> CosmosTransformer3DModel:
    return CosmosTransformer3DModel(
        in_channels=in_channels,
        out_channels=LATENT,
        num_layers=2,
        mlp_ratio=2.0,
        concat_padding_mask=False,
        **(COSMOS | changes),
    )


def _cosmos_pipe(cls: type, transformer: Any, **components: Any) -> Any:
    shared = {
        "text_encoder": t5_encoder(), "tokenizer": t5_tokenizer(), "vae": wan_vae(LATENT),
        "scheduler": FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
    }  # fmt: skip
    return assemble(cls, transformer=transformer, safety_checker=_Guardrail(), **(shared | components))


def _first_cosmos(cls: type, in_channels: int) -> Any:
    vae = AutoencoderKLCosmos(
        latent_channels=LATENT, encoder_block_out_channels=(8, 8, 8, 8), decode_block_out_channels=(8, 8, 8, 8),
        attention_resolutions=(8,), resolution=64, num_layers=1, patch_size=4, latents_mean=None, latents_std=None,
    )  # fmt: skip
    scheduler = EDMEulerScheduler(
        sigma_min=0.002, sigma_max=80, sigma_data=0.5, sigma_schedule="karras", final_sigmas_type="sigma_min"
    )
    return _cosmos_pipe(cls, _cosmos(in_channels), vae=vae, scheduler=scheduler)


def _reader() -> dict[str, Any]:
    """All layers of the text encoder after one another: twice 32 wide."""
    return {"text_encoder": qwen2_5_vl(), "tokenizer": llm_tokenizer(), "scheduler": unipc()}


COSMOS_2_5 = {
    "use_crossattn_projection": True, "crossattn_proj_in_channels": 64, "encoder_hidden_states_channels": 32,
    "extra_pos_embed_type": None,
}  # fmt: skip


def _video(i: int, **more: Any) -> dict[str, Any]:
    return call(i, **({"height": SIDE, "width": SIDE, "num_frames": FRAMES, "max_sequence_length": 16} | more))


def _cosmos_arguments(i: int, **more: Any) -> dict[str, Any]:
    # Its own negative prompt has 500 tokens.
    return _video(i, negative_prompt="bad quality", **more)


def _easy(cls: type, in_channels: int = LATENT, **changes: Any) -> Any:
    transformer = EasyAnimateTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=in_channels, out_channels=LATENT, patch_size=2,
        num_layers=2, mmdit_layers=1, time_embed_dim=8, text_embed_dim=32, sample_width=2, sample_height=2, **changes,
    )  # fmt: skip
    vae = AutoencoderKLMagvit(
        latent_channels=LATENT, block_out_channels=[8, 8, 8, 8], layers_per_block=1, norm_num_groups=2
    )
    return assemble(
        cls, transformer=transformer, vae=vae, scheduler=FlowMatchEulerDiscreteScheduler(), text_encoder=qwen2_5_vl(),
        tokenizer=llm_tokenizer(),
    )  # fmt: skip


def _easy_arguments(i: int, **more: Any) -> dict[str, Any]:
    return _video(i, max_sequence_length=None, negative_prompt="bad quality", **more)


def _clip(i: int) -> Any:
    """A video as a tensor, between 0 and 1."""
    return noise(i, 1, 3, FRAMES, SIDE, SIDE).sigmoid()


def _half_mask(i: int) -> Any:
    mask = noise(i, 1, 1, FRAMES, SIDE, SIDE) * 0
    mask[..., SIDE // 2 :] = 255
    return mask


def _motif(cls: type, image_embed_dim: int | None = None) -> Any:
    transformer = MotifVideoTransformer3DModel(
        in_channels=2 * 16 + 1, out_channels=16, num_attention_heads=2, attention_head_dim=12, num_layers=1,
        num_single_layers=1, num_decoder_layers=1, text_embed_dim=32, image_embed_dim=image_embed_dim,
        rope_axes_dim=(4, 4, 4), enable_text_cross_attention_dual=True, enable_text_cross_attention_single=True,
    )  # fmt: skip
    words = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "head_dim": 16,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "query_pre_attn_scalar": 16,
        "dropout_rate": 0.0,
    }  # fmt: skip
    eyes = {
        "model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 16, "patch_size": 8, "vision_use_head": False,
    }  # fmt: skip
    tokens = {"image_token_index": IDS["<|image_pad|>"], "boi_token_index": IDS["<img>"], "mm_tokens_per_image": 4}
    encoder = T5Gemma2EncoderConfig(text_config=words, vision_config=eyes, eoi_token_index=IDS["</img>"], **tokens)
    return assemble(
        cls, transformer=transformer, vae=wan_vae(), scheduler=FlowMatchEulerDiscreteScheduler(),
        text_encoder=T5Gemma2Encoder(encoder, eoi_token_index=IDS["</img>"]), tokenizer=llm_tokenizer(),
        guider=ClassifierFreeGuidance(guidance_scale=5.0),
        feature_extractor=SiglipImageProcessor(size={"height": 16, "width": 16}),
    )  # fmt: skip


def _sana(cls: type, scheduler: Any) -> Any:
    transformer = SanaVideoTransformer3DModel(
        in_channels=16, out_channels=16, num_attention_heads=2, attention_head_dim=12, num_layers=2,
        num_cross_attention_heads=2, cross_attention_head_dim=12, cross_attention_dim=24, caption_channels=32,
        sample_size=2, rope_max_seq_len=32,
    )  # fmt: skip
    return assemble(
        cls, transformer=transformer, vae=wan_vae(), scheduler=scheduler, text_encoder=gemma2(),
        tokenizer=llm_tokenizer(),
    )  # fmt: skip


def _sana_arguments(i: int, **more: Any) -> dict[str, Any]:
    quick = {"frames": FRAMES, "use_resolution_binning": False, "complex_human_instruction": []}
    return _video(i, num_frames=None, **quick, **more)


def _helios(cls: type, scheduler: HeliosScheduler) -> Any:
    transformer = HeliosTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16, text_dim=32, freq_dim=16,
        ffn_dim=32, num_layers=2, rope_dim=(4, 4, 4),
    )  # fmt: skip
    # It is given embeddings.
    return assemble(cls, transformer=transformer, vae=wan_vae(), scheduler=scheduler, text_encoder=None, tokenizer=None)


def _helios_arguments(i: int, **more: Any) -> dict[str, Any]:
    embeds = {"prompt_embeds": noise(i, 1, 8, 32), "negative_prompt_embeds": noise(i + 500, 1, 8, 32)}
    window = {"num_latent_frames_per_chunk": 2, "history_sizes": [4, 2, 1], "num_frames": 9}
    return _video(i, prompt=None, max_sequence_length=None, **(embeds | window | more))


SPECIMENS = [
    Specimen(
        "CosmosTextToWorldPipeline", "Cosmos", "text-to-video",
        lambda: _first_cosmos(CosmosTextToWorldPipeline, LATENT), lambda i: _cosmos_arguments(i, num_frames=9),
    ),
    Specimen(
        "CosmosVideoToWorldPipeline", "Cosmos", "image-to-video",
        lambda: _first_cosmos(CosmosVideoToWorldPipeline, LATENT + 1),
        lambda i: _cosmos_arguments(i, num_frames=9, image=image(i, SIDE)),
    ),
    Specimen(
        "Cosmos2VideoToWorldPipeline", "Cosmos", "image-to-video",
        lambda: _cosmos_pipe(Cosmos2VideoToWorldPipeline, _cosmos(LATENT + 1)),
        lambda i: _cosmos_arguments(i, image=image(i, SIDE)),
    ),
    Specimen(
        "Cosmos2_5_PredictBasePipeline", "Cosmos", "video-to-video",
        lambda: _cosmos_pipe(Cosmos2_5_PredictBasePipeline, _cosmos(LATENT + 1, **COSMOS_2_5), **_reader()),
        lambda i: _cosmos_arguments(
            i, video=frames(i, FRAMES, SIDE), num_latent_conditional_frames=1, max_sequence_length=32,
        ),
    ),
    Specimen(
        "EasyAnimatePipeline", "EasyAnimate", "text-to-video", lambda: _easy(EasyAnimatePipeline), _easy_arguments,
    ),
    Specimen(
        "EasyAnimateInpaintPipeline", "EasyAnimate", "inpainting",
        lambda: _easy(EasyAnimateInpaintPipeline, 3 * LATENT, resize_inpaint_mask_directly=False),
        lambda i: _easy_arguments(i, video=_clip(i), mask_video=_half_mask(i)),
    ),
    Specimen(
        "MotifVideoPipeline", "Motif", "text-to-video", lambda: _motif(MotifVideoPipeline),
        lambda i: _video(i, guidance_scale=None),
    ),
    Specimen(
        "MotifVideoImage2VideoPipeline", "Motif", "image-to-video", lambda: _motif(MotifVideoImage2VideoPipeline, 16),
        lambda i: _video(i, guidance_scale=None, image=image(i, SIDE)),
    ),
    Specimen(
        "SanaVideoPipeline", "Sana", "text-to-video",
        lambda: _sana(
            SanaVideoPipeline,
            DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=8.0),
        ),
        lambda i: _sana_arguments(i, height=32, width=32),
    ),
    Specimen(
        "SanaImageToVideoPipeline", "Sana", "image-to-video",
        lambda: _sana(SanaImageToVideoPipeline, FlowMatchEulerDiscreteScheduler(shift=8.0)),
        lambda i: _sana_arguments(i, image=image(i), height=32, width=32),
    ),
    Specimen(
        "HeliosPipeline", "Helios", "text-to-video",
        lambda: _helios(HeliosPipeline, HeliosScheduler(stages=1, stage_range=[0, 1])), _helios_arguments,
    ),
    Specimen(
        "HeliosPyramidPipeline", "Helios", "text-to-video",
        lambda: _helios(HeliosPyramidPipeline, HeliosScheduler(gamma=0.25)),
        lambda i: _helios_arguments(
            i, num_inference_steps=None, height=64, width=64,
            pyramid_num_inference_steps_list=([2, 2, 2], [3, 2, 2], [2, 3, 2], [2, 2, 3])[i % 4],
        ),
    ),
]  # fmt: skip
