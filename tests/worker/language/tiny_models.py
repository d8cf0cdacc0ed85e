"""Language models small enough for tests: one of each kind of attention, and a tokenizer of single bytes."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GptOssConfig,
    GptOssForCausalLM,
    Llama4ForCausalLM,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PhimoeConfig,
    PhimoeForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from omni_worker.language.loading import wrap

START, END = 256, 257
CONTEXT = 512
SHAPE = {
    "vocab_size": 260,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.3,
    "bos_token_id": START,
    "eos_token_id": None,
    "pad_token_id": END,
    "tie_word_embeddings": False,
}
WINDOW = 12
BORDER = 40
"""The length of a text from which on the models with longrope have other embeddings."""
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 8,
    "long_factor": [1.0 + 3 * i for i in range(8)],
    "original_max_position_embeddings": BORDER,
    "short_mscale": 1.0,
    "long_mscale": 1.3,
}
KINDS = {
    "llama": lambda **more: LlamaForCausalLM(LlamaConfig(**SHAPE | more)),
    "qwen2": lambda **more: Qwen2ForCausalLM(Qwen2Config(**SHAPE | more)),
    "qwen2, one layer sliding": lambda **more: Qwen2ForCausalLM(
        Qwen2Config(**SHAPE | more, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=2)
    ),
    "qwen3": lambda **more: Qwen3ForCausalLM(Qwen3Config(**SHAPE | more, head_dim=16)),
    "mistral, all layers sliding": lambda **more: MistralForCausalLM(
        MistralConfig(**SHAPE | more, sliding_window=WINDOW)
    ),
    "gemma2, mixed and soft-capped": lambda **more: Gemma2ForCausalLM(
        Gemma2Config(**SHAPE | more, head_dim=16, sliding_window=WINDOW)
    ),
    "gemma3, mixed": lambda **more: Gemma3ForCausalLM(
        Gemma3TextConfig(
            **SHAPE | more,
            head_dim=16,
            sliding_window=WINDOW,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        )
    ),
    "gpt-oss, mixed with sinks": lambda **more: GptOssForCausalLM(
        GptOssConfig(
            **SHAPE | more,
            head_dim=16,
            sliding_window=WINDOW,
            num_local_experts=4,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            rope_scaling=None,
        )
    ),
    "phi3, longrope": lambda **more: Phi3ForCausalLM(
        Phi3Config(**SHAPE | more, original_max_position_embeddings=BORDER, rope_parameters=dict(LONGROPE))
    ),
    "phi3, longrope and sliding": lambda **more: Phi3ForCausalLM(
        Phi3Config(
            **SHAPE | more,
            original_max_position_embeddings=BORDER,
            rope_parameters=dict(LONGROPE),
            sliding_window=WINDOW,
        )
    ),
    "phimoe, longrope": lambda **more: PhimoeForCausalLM(
        PhimoeConfig(
            **SHAPE | more,
            original_max_position_embeddings=BORDER,
            rope_parameters=dict(LONGROPE),
            num_local_experts=4,
        )
    ),
    "llama4, chunked": lambda **more: Llama4ForCausalLM(
        Llama4TextConfig(
            **SHAPE | more,
            head_dim=16,
            intermediate_size_mlp=96,
            num_local_experts=2,
            attention_chunk_size=WINDOW,
            layer_types=["chunked_attention", "chunked_attention", "full_attention"],
        )
    ),
    "llama, dynamic": lambda **more: LlamaForCausalLM(
        LlamaConfig(**SHAPE | more, rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0})
    ),
}


def bare(kind, seed=0, **more):
    """A model of transformers, as it is."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    return KINDS[kind](**more).eval()


def tokenizer(chat_template=None):
    """Every byte is a token; two more are the start and the end."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_to_letters = {letter: i for i, letter in enumerate(letters)}
    raw = Tokenizer(models.BPE(vocab=bytes_to_letters | {"<s>": START, "</s>": END}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>")
    made.chat_template = chat_template
    return made


def served(kind, seed=0, chat_template=None, max_tokens=None, max_bytes=None, **more):
    """The same model over a cache of slots."""
    return wrap(bare(kind, seed, **more), tokenizer(chat_template), max_tokens, max_bytes)


def save(folder, kind="llama", seed=0, **more):
    """The model as a folder of transformers."""
    bare(kind, seed, **more).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
