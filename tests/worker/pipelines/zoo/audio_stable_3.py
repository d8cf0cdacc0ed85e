"""Stable Audio 3: sound from a prompt, from another sound, and into a hole in it."""

from typing import Any

from diffusers import (
    AutoencoderSAME,
    FlowMatchEulerDiscreteScheduler,
    StableAudio3AudioToAudioPipeline,
    StableAudio3DiTModel,
    StableAudio3InpaintPipeline,
    StableAudio3Pipeline,
)
from diffusers.pipelines.stable_audio_3.modeling_stable_audio_3 import StableAudio3DurationEmbedder
from transformers import T5GemmaConfig, T5GemmaEncoderModel

from .specimen import Specimen
from .text import assemble, call, noise
from .text_llm import VOCABULARY, llm_tokenizer

RATE = 800  # samples a second, eight to a latent


def _reader() -> T5GemmaEncoderModel:
    words = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "head_dim": 16,
        "num_attention_heads": 2, "num_key_value_heads": 1, "query_pre_attn_scalar": 16,
    }  # fmt: skip
    return T5GemmaEncoderModel(
        T5GemmaConfig(encoder=words, decoder=words, is_encoder_decoder=False, vocab_size=VOCABULARY)
    )


def _pipe(cls: type) -> Any:
    transformer = StableAudio3DiTModel(
        io_channels=8, embed_dim=32, depth=2, num_heads=2, cond_token_dim=32, global_cond_dim=32, local_add_cond_dim=9,
        timestep_features_dim=16, ff_mult=2.0, num_memory_tokens=2,
    )  # fmt: skip
    vae = AutoencoderSAME(
        patch_size=4, encoder_channels=16, encoder_c_mults=(2,), encoder_strides=(2,), encoder_transformer_depths=(1,),
        latent_dim=8, dim_heads=16, ff_mult=2, sampling_rate=RATE,
    )  # fmt: skip
    return assemble(
        cls, transformer=transformer, vae=vae, text_encoder=_reader(), tokenizer=llm_tokenizer(16),
        duration_embedder=StableAudio3DurationEmbedder(output_dim=32, fourier_dim=16),
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )  # fmt: skip


def _sound(i: int, **more: Any) -> dict[str, Any]:
    return call(i, **({"duration": 0.1, "output_type": "pt"} | more))


def _from_sound(i: int, **more: Any) -> dict[str, Any]:
    return _sound(i, guidance_scale=None, audio=noise(i, 1, 2, RATE // 10).tanh(), **more)


SPECIMENS = [
    Specimen("StableAudio3Pipeline", "Stable Audio 3", "audio", lambda: _pipe(StableAudio3Pipeline), _sound),
    Specimen(
        "StableAudio3AudioToAudioPipeline", "Stable Audio 3", "audio",
        lambda: _pipe(StableAudio3AudioToAudioPipeline), lambda i: _from_sound(i, init_noise_level=0.8),
    ),
    Specimen(
        "StableAudio3InpaintPipeline", "Stable Audio 3", "audio", lambda: _pipe(StableAudio3InpaintPipeline),
        lambda i: _from_sound(i, mask_start_seconds=0.03, mask_end_seconds=0.07),
    ),
]  # fmt: skip
