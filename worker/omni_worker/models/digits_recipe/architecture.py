"""The model's shape: every part of a `diffusers.QwenImagePipeline`, some ten thousand times smaller than the original.

The tokenizer is built so that Qwen-Image's own prompt template takes exactly the 34 tokens which the pipeline cuts off
again; so the saved folder loads and runs with plain `DiffusionPipeline.from_pretrained`, with no attribute to set.
"""

from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from omni_worker.models.digits_recipe.captions import SPECIAL, UNKNOWN, vocabulary

TEXT_WIDTH = 64
LATENT_CHANNELS = 4
SHIFT = 0.5


def build() -> QwenImagePipeline:
    """The untrained pipeline; its weights depend on torch's random state."""
    return QwenImagePipeline(
        scheduler=timestep_scheduler(),
        vae=autoencoder(),
        text_encoder=text_encoder(),
        tokenizer=tokenizer(),
        transformer=transformer(),
    )


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, a punctuation mark or a line break, in lower case; anything else is <unk>."""
    words = Tokenizer(models.WordLevel(vocabulary(), unk_token=UNKNOWN))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]|\n"), behavior="removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=SPECIAL[0],
        eos_token=SPECIAL[0],
        unk_token=UNKNOWN,
        additional_special_tokens=list(SPECIAL[1:3]),
        padding_side="right",
        model_max_length=1024,
    )


def text_encoder() -> Qwen2_5_VLForConditionalGeneration:
    """Two layers, 64 wide; the vision tower, which text never enters, is as small as the class allows."""
    size = len(vocabulary())
    text = {
        "bos_token_id": 0,
        "eos_token_id": 0,
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": 2 * TEXT_WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": size,
        "max_position_embeddings": 2048,
        "rope_theta": 1e6,
        "rope_scaling": {"mrope_section": [2, 3, 3], "rope_type": "default", "type": "default"},
    }
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": TEXT_WIDTH}
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        hidden_size=TEXT_WIDTH,
        vocab_size=size,
        bos_token_id=0,
        eos_token_id=0,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def autoencoder() -> AutoencoderKLQwenImage:
    """A picture's every 4x4 pixels become one latent of 4 channels."""
    return AutoencoderKLQwenImage(
        base_dim=16,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, False],
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
    )


def transformer() -> QwenImageTransformer2DModel:
    """Four double-stream blocks, 128 wide, on patches of 2x2 latents: 32x32 pixels are 16 tokens, 64x64 are 64."""
    return QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=4 * LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=4,
        num_attention_heads=4,
        attention_head_dim=32,
        joint_attention_dim=TEXT_WIDTH,
        axes_dims_rope=(8, 12, 12),
    )


def timestep_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Euler along straight flows; the shift spends more of four steps where the picture is decided."""
    return FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=SHIFT,
        max_shift=SHIFT,
        base_image_seq_len=16,
        max_image_seq_len=4096,
    )
