"""Tiny offline language models and vision-language models used as text encoders, their tokenizers and processors."""

from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    Gemma2Config,
    Gemma2Model,
    GemmaConfig,
    GemmaModel,
    GlmConfig,
    GlmModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaProcessor,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from .text import CHARACTERS, WORDS

SPECIAL = (
    "<pad>", "</s>", "<unk>", "<s>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|image_pad|>", "<|video_pad|>", "<|endoftext|>", "[IMG]", "[IMG_BREAK]", "[IMG_END]", "<think>", "</think>",
    "<img>", "</img>",
)  # fmt: skip
TOKENS = tuple(dict.fromkeys([*SPECIAL, "\n", "system", "user", "assistant", *WORDS, *CHARACTERS]))
IDS = {token: index for index, token in enumerate(TOKENS)}
VOCABULARY = 192

# A message's content is a text or a list of parts, as the pipelines have it.
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def llm_tokenizer(max_length: int = 128, **changes: Any) -> PreTrainedTokenizerFast:
    """One token a word, a sign or a newline, so that Qwen's templates have as many tokens as their pipelines drop."""
    backend = Tokenizer(models.WordLevel(IDS, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"'?\w+|\n|[^\w\s]"), behavior="removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{
            "model_max_length": max_length,
            "padding_side": "right",
            "pad_token": "<pad>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "bos_token": "<s>",
            "additional_special_tokens": list(SPECIAL[4:]),
            "chat_template": CHAT,
        }
        | changes,
    )


def _text(hidden: int, layers: int, changes: dict[str, Any]) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY, "hidden_size": hidden, "intermediate_size": hidden + 8, "num_hidden_layers": layers,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 512,
        "pad_token_id": IDS["<pad>"], "bos_token_id": IDS["<s>"], "eos_token_id": IDS["</s>"], "initializer_range": 0.3,
    } | changes  # fmt: skip


def gemma(hidden: int = 32, layers: int = 2, **changes: Any) -> GemmaModel:
    return GemmaModel(GemmaConfig(**_text(hidden, layers, changes)))


def gemma2(hidden: int = 32, layers: int = 2, **changes: Any) -> Gemma2Model:
    return Gemma2Model(Gemma2Config(**_text(hidden, layers, changes)))


def glm(hidden: int = 32, layers: int = 2, **changes: Any) -> GlmModel:
    return GlmModel(GlmConfig(**_text(hidden, layers, changes)))


def llama(hidden: int = 32, layers: int = 2, **changes: Any) -> LlamaForCausalLM:
    return LlamaForCausalLM(LlamaConfig(**_text(hidden, layers, changes)))


def smollm3(hidden: int = 32, layers: int = 2, **changes: Any) -> SmolLM3ForCausalLM:
    return SmolLM3ForCausalLM(SmolLM3Config(**_text(hidden, layers, changes)))


def qwen3(hidden: int = 32, layers: int = 2, **changes: Any) -> Qwen3ForCausalLM:
    """`.model` is the Qwen3Model that some pipelines have."""
    return Qwen3ForCausalLM(Qwen3Config(**_text(hidden, layers, changes)))


_VISION_TOKENS = {
    "image_token_id": IDS["<|image_pad|>"],
    "video_token_id": IDS["<|video_pad|>"],
    "vision_start_token_id": IDS["<|vision_start|>"],
    "vision_end_token_id": IDS["<|vision_end|>"],
}


def _rope(sections: list[int], **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": sections, **more}}


def qwen2_5_vl(hidden: int = 32, layers: int = 2, **changes: Any) -> Qwen2_5_VLForConditionalGeneration:
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "patch_size": 14, "window_size": 56,
        "out_hidden_size": hidden, "fullatt_block_indexes": [1],
    }  # fmt: skip
    text = _text(hidden, layers, _rope([2, 3, 3]) | changes)
    text["num_attention_heads"] = hidden // text.pop("head_dim")
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_VISION_TOKENS)
    )


def qwen3_vl(hidden: int = 32, layers: int = 2, **changes: Any) -> Qwen3VLForConditionalGeneration:
    """`.model` is the Qwen3VLModel that some pipelines have."""
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "patch_size": 16,
        "out_hidden_size": hidden, "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
    }  # fmt: skip
    text = _text(hidden, layers, _rope([2, 3, 3], mrope_interleaved=True) | changes)
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **_VISION_TOKENS))


def qwen3_5(hidden: int = 32, **changes: Any) -> Qwen3_5ForConditionalGeneration:
    """One layer of linear attention and one of full attention. It writes words and characters only."""
    vision = {
        "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "patch_size": 16,
        "out_hidden_size": hidden, "num_position_embeddings": 16,
    }  # fmt: skip
    linear = {
        "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 2,
        "layer_types": ["linear_attention", "full_attention"],
    }  # fmt: skip
    text = _text(hidden, 2, linear | changes)
    model = Qwen3_5ForConditionalGeneration(Qwen3_5Config(text_config=text, vision_config=vision, **_VISION_TOKENS))
    with torch.no_grad():
        model.lm_head.weight[: IDS["\n"] + 1] = 0
        model.lm_head.weight[len(TOKENS) :] = 0
    return model


def mistral3(hidden: int = 32, layers: int = 2, **changes: Any) -> Mistral3ForConditionalGeneration:
    vision = {
        "model_type": "pixtral", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "head_dim": 16, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    text = {"model_type": "mistral"} | _text(hidden, layers, changes)
    return Mistral3ForConditionalGeneration(
        Mistral3Config(text_config=text, vision_config=vision, image_token_index=IDS["[IMG]"])
    )


class _NoVideo:
    """A video processor needs torchvision, which no pipeline here does."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]


class _Qwen2Processor(_NoVideo, Qwen2_5_VLProcessor):
    pass


class _Qwen3Processor(_NoVideo, Qwen3VLProcessor):
    pass


def _processor(kind: type, patch: int, pixels: int | None, changes: dict[str, Any]) -> Any:
    side = patch * 2
    images = Qwen2VLImageProcessorPil(
        patch_size=patch, merge_size=2, min_pixels=side * side, max_pixels=pixels or 4 * side * side
    )
    return kind(images, llm_tokenizer(**changes), None, chat_template=CHAT)


def text_processor(**changes: Any) -> LlavaProcessor:
    """A processor for texts, of a class that transformers loads by itself."""
    images = Qwen2VLImageProcessorPil(patch_size=16, merge_size=2)
    return LlavaProcessor(images, llm_tokenizer(**changes), chat_template=CHAT)


def qwen2_processor(pixels: int | None = None, **changes: Any) -> Qwen2_5_VLProcessor:
    """No more than four tokens an image."""
    return _processor(_Qwen2Processor, 14, pixels, changes)


def qwen3_processor(pixels: int | None = None, **changes: Any) -> Qwen3VLProcessor:
    """No more than four tokens an image."""
    return _processor(_Qwen3Processor, 16, pixels, changes)
