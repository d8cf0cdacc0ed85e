"""Modular pipelines without a classic twin: FLUX.3, Anima and MiniMax Music 3."""

from collections.abc import Callable
from typing import Any

from diffusers import (
    AnimaTextConditioner,
    CosmosTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    Flux3Transformer2DModel,
)
from diffusers.models import (
    MiniMaxMusic3ConditionEncoder,
    MiniMaxMusic3RVQDepthDecoder,
    MiniMaxMusic3Transformer1DModel,
)
from diffusers.models.autoencoders.minimax_music3_vocoder import MiniMaxMusic3Vocoder

from .dit_flux2 import LAYERS, flux2_vae
from .dit_gain import amplified
from .modular import fill
from .qwen_image import qwen_vae
from .specimen import Specimen
from .text import T5_VOCABULARY, call, image, t5_tokenizer
from .text_llm import llm_tokenizer, qwen3, qwen3_5, qwen3_processor, qwen3_vl, text_processor

SIZE = 32


def _evaluated(**components: Any) -> dict[str, Any]:
    """These components with louder denoisers, evaluating."""
    amplified(components["transformer"], 2.0)
    for component in components.values():
        if hasattr(component, "eval"):
            component.eval()
    return components


def _flux3(name: str, processor: Callable[[], Any] = text_processor) -> Any:
    """`processor`: of the model that rewrites the prompt, which sees the reference images too."""
    transformer = Flux3Transformer2DModel(
        in_channels=16, cond_in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=96, timestep_channels=16, axes_dims_rope=(4, 4, 4, 4),
        flow_map="Distilled" in name,
    )  # fmt: skip
    parts = _evaluated(
        transformer=transformer, vae=flux2_vae(), text_encoder=qwen3_vl(), tokenizer=text_processor(),
        prompt_upsampler=qwen3_5(), prompt_upsampler_processor=processor(),
    )  # fmt: skip
    return fill(name, parts)


def _anima() -> Any:
    transformer = CosmosTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=2, mlp_ratio=2.0,
        text_embed_dim=32, adaln_lora_dim=4, max_size=(4, 32, 32), concat_padding_mask=False, extra_pos_embed_type=None,
    )  # fmt: skip
    conditioner = AnimaTextConditioner(
        source_dim=32, target_dim=32, model_dim=32, num_layers=1, num_attention_heads=2, min_sequence_length=16,
        target_vocab_size=T5_VOCABULARY,
    )  # fmt: skip
    parts = _evaluated(
        transformer=transformer, text_conditioner=conditioner, vae=qwen_vae(), text_encoder=qwen3().model,
        tokenizer=llm_tokenizer(), t5_tokenizer=t5_tokenizer(), scheduler=FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip
    return fill("AnimaModularPipeline", parts)


def _music() -> Any:
    """Its language model needs the vocabulary of the real one, whose last tokens are sounds."""
    decoder = MiniMaxMusic3RVQDepthDecoder(
        hidden_size=16, num_layers=1, num_attention_heads=2, intermediate_size=24, audio_vocab_size=16, num_codebooks=2
    )
    transformer = MiniMaxMusic3Transformer1DModel(
        in_channels=8, condition_dim=16, num_layers=2, num_attention_heads=2, attention_head_dim=16, ff_inner_dim=32,
        rotary_dim=8, fourier_embedding_dim=16,
    )  # fmt: skip
    vocoder = MiniMaxMusic3Vocoder(
        latent_channels=8, decoder_input_dim=16, decoder_hidden_dim=32, upsampling_ratios=(8, 8, 4, 2)
    )
    parts = _evaluated(
        tokenizer=llm_tokenizer(model_max_length=512), language_model=qwen3(16, vocab_size=168_100),
        rvq_depth_decoder=decoder, transformer=transformer, vocoder=vocoder,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        condition_encoder=MiniMaxMusic3ConditionEncoder(condition_hidden_dim=16, num_condition_layers=2, out_dim=16),
    )  # fmt: skip
    return fill("MiniMaxMusic3ModularPipeline", parts)


def _call(i: int, **more: Any) -> dict[str, Any]:
    return call(i, height=SIZE, width=SIZE, **more)


def _flux3_call(i: int, **more: Any) -> dict[str, Any]:
    return _call(i, max_sequence_length=80, text_encoder_out_layers=LAYERS, max_new_tokens=2, **more)


SPECIMENS = [
    Specimen(
        "Flux3ModularPipeline", "Flux 3", "text-to-image", lambda: _flux3("Flux3ModularPipeline"), _flux3_call
    ),
    Specimen(
        "Flux3ModularPipeline-reference", "Flux 3", "image editing",
        lambda: _flux3("Flux3ModularPipeline", qwen3_processor),
        lambda i: _flux3_call(i, image=image(i)),
    ),
    Specimen(
        "Flux3DistilledModularPipeline", "Flux 3", "text-to-image",
        lambda: _flux3("Flux3DistilledModularPipeline"), lambda i: _flux3_call(i, guidance_scale=None),
    ),
    Specimen(
        "MiniMaxMusic3ModularPipeline", "MiniMax", "audio", _music,
        lambda i: call(i, guidance_scale=(1.5, 2.0, 2.5, 3.0)[i % 4], lyrics="a cat", audio_duration=0.2),
    ),
    Specimen("AnimaModularPipeline", "Anima", "text-to-image", _anima, _call),
    Specimen(
        "AnimaModularPipeline-image", "Anima", "image-to-image", _anima,
        lambda i: _call(i, image=image(i), strength=0.8) | {"num_inference_steps": (5, 6, 8, 4)[i % 4]},
    ),
]  # fmt: skip
