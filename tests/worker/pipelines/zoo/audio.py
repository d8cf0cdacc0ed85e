"""Sound: spectrograms with a vocoder (AudioLDM, MusicLDM), latents of a waveform, and waveforms themselves."""

from typing import Any

from diffusers import (
    AceStepPipeline,
    AceStepTransformer1DModel,
    AudioLDM2Pipeline,
    AudioLDM2ProjectionModel,
    AudioLDM2UNet2DConditionModel,
    AudioLDMPipeline,
    AutoencoderOobleck,
    DanceDiffusionPipeline,
    DDIMScheduler,
    EDMDPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    IPNDMScheduler,
    LongCatAudioDiTPipeline,
    LongCatAudioDiTTransformer,
    LongCatAudioDiTVae,
    MusicLDMPipeline,
    StableAudioDiTModel,
    StableAudioPipeline,
    StableAudioProjectionModel,
    UNet1DModel,
    UNet2DConditionModel,
)
from diffusers.pipelines.ace_step.modeling_ace_step import AceStepConditionEncoder
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapTextConfig,
    ClapTextModelWithProjection,
    GPT2Config,
    GPT2LMHeadModel,
    RobertaTokenizer,
    SpeechT5HifiGan,
    SpeechT5HifiGanConfig,
)

from .specimen import Specimen
from .text import CHARACTERS, assemble, call, generator, kl_vae, noise, t5_encoder, t5_tokenizer, umt5_encoder
from .text_llm import llm_tokenizer, qwen3

CHANNELS = (16, 32)
SECONDS = 0.004  # 16 lines of the spectrogram
SIGNS = dict.fromkeys(["<s>", "<pad>", "</s>", "<unk>", *CHARACTERS, "Ġ", "<mask>"])


def _roberta_tokenizer() -> RobertaTokenizer:
    """One token a character."""
    return RobertaTokenizer(vocab={sign: index for index, sign in enumerate(SIGNS)}, merges=[], model_max_length=32)


CLAP_TEXT = {
    "vocab_size": len(SIGNS), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "projection_dim": 32,
    "num_attention_heads": 4, "pad_token_id": 1, "max_position_embeddings": 40,
}  # fmt: skip
CLAP_AUDIO = {
    "spec_size": 64, "window_size": 4, "num_mel_bins": 64, "hidden_size": 64, "depths": [1, 1], "projection_dim": 32,
    "num_attention_heads": [1, 1], "num_hidden_layers": 2, "patch_size": 4, "patch_embeds_hidden_size": 16,
}  # fmt: skip


def _clap() -> ClapModel:
    return ClapModel(ClapConfig(text_config=CLAP_TEXT, audio_config=CLAP_AUDIO, projection_dim=32))


def _vocoder() -> SpeechT5HifiGan:
    return SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=8, sampling_rate=16000, upsample_initial_channel=16, upsample_rates=[2, 2],
            upsample_kernel_sizes=[4, 4], resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1, 3]],
            normalize_before=False,
        )
    )  # fmt: skip


def _spectrogram(cls: type, unet: Any, **components: Any) -> Any:
    shared = {
        "vae": kl_vae(CHANNELS, in_channels=1, out_channels=1), "scheduler": DDIMScheduler(clip_sample=False),
        "vocoder": _vocoder(), "tokenizer": _roberta_tokenizer(),
    }  # fmt: skip
    return assemble(cls, unet=unet, **(shared | components))


UNET = {
    "block_out_channels": CHANNELS, "layers_per_block": 1, "norm_num_groups": 8, "sample_size": 8,
    "attention_head_dim": 8, "in_channels": 4, "out_channels": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip


def _film() -> UNet2DConditionModel:
    """Conditioned by the prompt as by a class."""
    return UNet2DConditionModel(
        **UNET, cross_attention_dim=CHANNELS, class_embed_type="simple_projection", class_embeddings_concat=True,
        projection_class_embeddings_input_dim=32,
    )  # fmt: skip


def _audioldm() -> Any:
    return _spectrogram(
        AudioLDMPipeline, _film(), text_encoder=ClapTextModelWithProjection(ClapTextConfig(**CLAP_TEXT))
    )


def _musicldm() -> Any:
    return _spectrogram(MusicLDMPipeline, _film(), text_encoder=_clap(), feature_extractor=None)


def _musicldm_arguments(i: int) -> dict[str, Any]:
    # Given a prompt, it takes for a tensor what transformers now returns as an object.
    embeds = {"prompt_embeds": noise(i, 1, 32), "negative_prompt_embeds": noise(i + 500, 1, 32)}
    return call(i, prompt=None, audio_length_in_s=SECONDS, **embeds)


def _audioldm2() -> Any:
    language = GPT2Config(
        vocab_size=8,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=64,
        n_ctx=64,
        max_new_tokens=3,
        bos_token_id=0,
        eos_token_id=0,
    )
    return _spectrogram(
        AudioLDM2Pipeline,
        AudioLDM2UNet2DConditionModel(**UNET, cross_attention_dim=((None, 16, 32), (None, 16, 32))),
        text_encoder=_clap(), text_encoder_2=t5_encoder(), tokenizer_2=t5_tokenizer(),
        language_model=GPT2LMHeadModel(language), feature_extractor=ClapFeatureExtractor(),
        projection_model=AudioLDM2ProjectionModel(32, 32, 16),
    )  # fmt: skip


def _oobleck(sampling_rate: int = 800) -> AutoencoderOobleck:
    return AutoencoderOobleck(
        encoder_hidden_size=4, downsampling_ratios=[2, 4], channel_multiples=[1, 2], decoder_channels=4,
        decoder_input_channels=4, audio_channels=2, sampling_rate=sampling_rate,
    )  # fmt: skip


def _stable_audio() -> Any:
    transformer = StableAudioDiTModel(
        sample_size=16, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        num_key_value_attention_heads=1, cross_attention_dim=32, time_proj_dim=8, global_states_input_dim=64,
        cross_attention_input_dim=32,
    )  # fmt: skip
    return assemble(
        StableAudioPipeline, transformer=transformer, vae=_oobleck(), text_encoder=t5_encoder(),
        tokenizer=t5_tokenizer(), projection_model=StableAudioProjectionModel(32, 32, 0, 32),
        scheduler=EDMDPMSolverMultistepScheduler(sigma_min=0.3, sigma_max=500, prediction_type="v_prediction"),
    )  # fmt: skip


def _dance() -> Any:
    unet = UNet1DModel(
        sample_size=64, sample_rate=800, in_channels=2, out_channels=2, extra_in_channels=16, flip_sin_to_cos=True,
        use_timestep_embedding=False, block_out_channels=(8, 32, 32),
    )  # fmt: skip
    return assemble(DanceDiffusionPipeline, unet=unet, scheduler=IPNDMScheduler())


def _longcat() -> Any:
    transformer = LongCatAudioDiTTransformer(dit_dim=32, dit_depth=2, dit_heads=2, dit_text_dim=32, latent_dim=4)
    vae = LongCatAudioDiTVae(
        channels=8, c_mults=[1, 2], strides=[2, 4], latent_dim=4, encoder_latent_dim=8, downsampling_ratio=8,
        sample_rate=800,
    )  # fmt: skip
    return assemble(
        LongCatAudioDiTPipeline, transformer=transformer, vae=vae, text_encoder=umt5_encoder(),
        tokenizer=t5_tokenizer(), scheduler=None,
    )  # fmt: skip


def _ace_step() -> Any:
    size = {
        "hidden_size": 32, "intermediate_size": 40, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
        "sliding_window": 8,
    }  # fmt: skip
    return assemble(
        AceStepPipeline, vae=_oobleck(80), text_encoder=qwen3().model, tokenizer=llm_tokenizer(),
        transformer=AceStepTransformer1DModel(
            **size, num_hidden_layers=2, in_channels=12, audio_acoustic_hidden_dim=4, encoder_hidden_size=32,
        ),
        condition_encoder=AceStepConditionEncoder(
            **size, text_hidden_dim=32, timbre_hidden_dim=4, num_lyric_encoder_hidden_layers=2,
            num_timbre_encoder_hidden_layers=2,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0),
    )  # fmt: skip


def _sound(i: int) -> dict[str, Any]:
    return call(i, audio_length_in_s=SECONDS)


SPECIMENS = [
    Specimen("AudioLDMPipeline", "AudioLDM", "audio", _audioldm, _sound),
    Specimen("AudioLDM2Pipeline", "AudioLDM", "audio", _audioldm2, _sound),
    Specimen("MusicLDMPipeline", "AudioLDM", "audio", _musicldm, _musicldm_arguments),
    Specimen(
        "StableAudioPipeline", "Stable Audio", "audio", _stable_audio,
        lambda i: call(i, audio_end_in_s=(0.1, 0.12, 0.08, 0.11)[i % 4], output_type="pt"),
    ),
    Specimen(
        "DanceDiffusionPipeline", "Dance Diffusion", "unconditional", _dance,
        lambda i: {"generator": generator(i), "num_inference_steps": (4, 6, 5, 3)[i % 4]},
    ),
    Specimen(
        "LongCatAudioDiTPipeline", "LongCat Audio", "audio", _longcat, lambda i: call(i, audio_duration_s=0.1),
    ),
    Specimen(
        "AceStepPipeline", "ACE-Step", "audio", _ace_step,
        lambda i: call(i, lyrics="a cat", audio_duration=1.0, max_text_length=64, max_lyric_length=32),
    ),
]  # fmt: skip
