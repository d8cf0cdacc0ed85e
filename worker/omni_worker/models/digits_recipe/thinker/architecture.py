"""The thinker's shape: a `Qwen3ForCausalLM` some million times smaller than the original, and its tokenizer.

Its states are as wide as the painter's text, because they are handed over as such. The tokenizer puts a prompt between
two marks, and so does its chat template: a bare prompt and a chat become the same tokens.
"""

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from omni_worker.models.digits_recipe.architecture import TEXT_WIDTH
from omni_worker.models.digits_recipe.captions import UNKNOWN
from omni_worker.models.digits_recipe.thinker.questions import ANSWER, END, START, vocabulary

LAYERS = 4
CONTEXT = 512

CHAT_TEMPLATE = (
    START
    + "{%- set questions = messages | selectattr('role', 'equalto', 'user') | list -%}"
    + "{%- set asked = (questions or messages)[-1].content -%}"
    + "{%- if asked is string -%}{{ asked }}"
    + "{%- else -%}{%- for part in asked if part.type == 'text' -%}{{ part.text }}{%- endfor -%}{%- endif -%}"
    + ANSWER
)
"""Only the last question of a chat: the thinker remembers none before it. A content is a text, or a list of parts."""


def thinker() -> Qwen3ForCausalLM:
    """The untrained model; its weights depend on torch's random state."""
    ids = vocabulary()
    config = Qwen3Config(
        vocab_size=len(ids),
        hidden_size=TEXT_WIDTH,
        intermediate_size=3 * TEXT_WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=TEXT_WIDTH // 4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        bos_token_id=ids[START],
        eos_token_id=ids[END],
        pad_token_id=ids[END],
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=False, bos_token_id=ids[START], eos_token_id=ids[END], pad_token_id=ids[END]
    )
    return model


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word or a mark, in lower case; anything else is <unk>. Pads on the left, as generating needs it."""
    ids = vocabulary()
    words = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    words.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex("[\u2010-\u2015\u2212]"), "-"),
            normalizers.Replace("\u2019", "'"),
        ]
    )
    words.pre_tokenizer = pre_tokenizers.Split(Regex(r"\d+|[^\W\d]+|[^\w\s]"), behavior="removed", invert=True)
    words.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {ANSWER}", special_tokens=[(mark, ids[mark]) for mark in (START, ANSWER)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=[ANSWER],
        padding_side="left",
        model_max_length=CONTEXT,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
