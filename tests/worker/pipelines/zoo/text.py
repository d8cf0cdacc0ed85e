"""What the tiny pipelines share: offline tokenizers, tiny encoders, a tiny VAE, inputs drawn from a number."""

import string
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

ADJECTIVES = ("red", "big", "old", "wet", "hot", "new", "shy", "odd")
NOUNS = ("cat", "dog", "fox", "owl", "cow", "bee", "hen", "ant")
WORDS = ("a", *ADJECTIVES, *NOUNS, "bad", "low", "quality")
CHARACTERS = tuple(string.ascii_letters + string.digits + string.punctuation)


def prompt(i: int) -> str:
    """Three words, of as many tokens for every i in each tokenizer of this module."""
    return f"a {ADJECTIVES[i % 8]} {NOUNS[(i + i // 8) % 8]}"


def generator(i: int) -> torch.Generator:
    return torch.Generator().manual_seed(i)


def noise(i: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(1000 + i))


def call(i: int, **more: Any) -> dict[str, Any]:
    """The arguments that most calls have in common; those of `more` that are None are left out."""
    common = {
        "prompt": prompt(i),
        "generator": generator(i),
        "num_inference_steps": (4, 6, 5, 3)[i % 4],
        "guidance_scale": (4.0, 3.0, 5.0, 2.0)[i % 4],
        "output_type": "np",
    }
    return {name: value for name, value in (common | more).items() if value is not None}


def image(i: int, size: int = 32) -> Image.Image:
    return Image.fromarray(np.random.RandomState(i).randint(0, 256, (size, size, 3), dtype=np.uint8))


def mask_image(size: int = 32) -> Image.Image:
    """White, to be repainted, in the middle half."""
    mask = np.zeros((size, size), dtype=np.uint8)
    mask[size // 4 : -size // 4, size // 4 : -size // 4] = 255
    return Image.fromarray(mask)


def assemble(pipeline_class: type, **components: Any) -> Any:
    """The pipeline of these components, evaluating; what starts as zero, and would hide its input, is redrawn."""
    modules = [component for component in components.values() if isinstance(component, torch.nn.Module)]
    for module in modules:
        module.eval()
        for parameter in module.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
    pipe = pipeline_class(**components)
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval()  # some classes build further models of those they are given
    pipe.set_progress_bar_config(disable=True)
    return pipe


def clip_tokenizer(**changes: Any) -> CLIPTokenizer:
    """One token a character."""
    pieces = [*CHARACTERS, *(f"{character}</w>" for character in CHARACTERS), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], **({"model_max_length": 77} | changes))


CLIP_VOCABULARY = 2 * len(CHARACTERS) + 2


def clip_text(hidden: int = 32, projection: bool = False, layers: int = 2, **changes: Any) -> CLIPTextModel:
    config = {
        "vocab_size": CLIP_VOCABULARY, "hidden_size": hidden, "intermediate_size": hidden + 8,
        "num_hidden_layers": layers, "num_attention_heads": 4, "projection_dim": hidden,
        "max_position_embeddings": 77, "hidden_act": "gelu",
        "bos_token_id": CLIP_VOCABULARY - 2, "eos_token_id": CLIP_VOCABULARY - 1, "pad_token_id": CLIP_VOCABULARY - 1,
    }  # fmt: skip
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(CLIPTextConfig(**(config | changes)))


def clip_vision(hidden: int = 32, projection: bool = True, size: int = 30, **changes: Any) -> CLIPVisionModel:
    config = {
        "hidden_size": hidden, "projection_dim": hidden, "image_size": size, "patch_size": size // 2,
        "intermediate_size": hidden + 8, "num_attention_heads": 4, "num_hidden_layers": 2,
    }  # fmt: skip
    return (CLIPVisionModelWithProjection if projection else CLIPVisionModel)(CLIPVisionConfig(**(config | changes)))


def clip_image_processor(size: int = 30) -> CLIPImageProcessor:
    return CLIPImageProcessor(crop_size=size, size=size)


def word_tokenizer(max_length: int = 16, extra: tuple[str, ...] = (), **special: Any) -> PreTrainedTokenizerFast:
    """One token a known word or character, and an end; `extra` are special tokens of the model's own."""
    vocabulary = dict.fromkeys(["<pad>", "</s>", "<unk>", "<s>", *extra, *WORDS, *CHARACTERS])
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace()])
    backend.post_processor = processors.TemplateProcessing("$A </s>", "$A </s> $B </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "bos_token": "<s>"}
    settings = {"model_max_length": max_length, "additional_special_tokens": list(extra)} | names | special
    return PreTrainedTokenizerFast(tokenizer_object=backend, **settings)


def t5_tokenizer(max_length: int = 16, **changes: Any) -> T5Tokenizer:
    """One token a known word, else one a character, and an end."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -6.0)]
    pieces += [(f"▁{word}", -2.0) for word in WORDS] + [(character, -4.0) for character in CHARACTERS]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=max_length, **changes)


T5_VOCABULARY = 160  # no fewer than any of the word tokenizers above has


def _t5_config(hidden: int, changes: dict[str, Any]) -> dict[str, Any]:
    return {
        "vocab_size": T5_VOCABULARY, "d_model": hidden, "d_ff": hidden + 8, "d_kv": 8, "num_heads": 4, "num_layers": 2,
        "relative_attention_num_buckets": 8, "feed_forward_proj": "gated-gelu",
    } | changes  # fmt: skip


def t5_encoder(hidden: int = 32, **changes: Any) -> T5EncoderModel:
    return T5EncoderModel(T5Config(**_t5_config(hidden, changes)))


def umt5_encoder(hidden: int = 32, **changes: Any) -> UMT5EncoderModel:
    return UMT5EncoderModel(UMT5Config(**_t5_config(hidden, changes)))


def kl_vae(channels: tuple[int, ...] = (32, 64), latent: int = 4, groups: int = 8, **changes: Any) -> AutoencoderKL:
    """Halves each side once a channel count after the first."""
    config = {
        "block_out_channels": list(channels), "layers_per_block": 1, "latent_channels": latent,
        "norm_num_groups": groups, "in_channels": 3, "out_channels": 3, "sample_size": 32,
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
    }  # fmt: skip
    return AutoencoderKL(**(config | changes))
