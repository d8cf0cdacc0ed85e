"""The bytes of single tokens: joined, they are the text, whatever the tokenizer makes of words and characters."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from omni_worker.language.text import TextTokenizer
from omni_worker.language.token_bytes import TokenBytes
from tests.worker.api.heads import DIGITS

from . import tiny_models

TEXTS = ["hello world", "two  spaces\nand lines", "naïve café", "日本語 ok", "a 👩‍👩‍👧 b", "\x00\x7f tab\t"]


def byte_fallback():
    """As Llama's: words with U+2581 for the space before them, and bytes for what is in no word."""
    words = ["<unk>", "▁hello", "▁world", "▁a", "▁b", "▁two", "▁", "a", "b", "c"]
    vocab = {piece: id for id, piece in enumerate([*words, *(f"<0x{byte:02X}>" for byte in range(256))])}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="<unk>"))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw)


def word_pieces():
    """As BERT's: ## before a piece that continues a word."""
    pieces = ["[UNK]", "run", "##n", "##ing", "fast", "in", "the", "park"]
    raw = Tokenizer(models.WordPiece(vocab={piece: id for id, piece in enumerate(pieces)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return PreTrainedTokenizerFast(tokenizer_object=raw)


def metaspace_words():
    """As Unigram models': a space belongs to the word after it."""
    scores = {"<unk>": 0.0, "▁one": -1.0, "▁two": -1.0, "▁": -5.0, "ly": -2.0}
    raw = Tokenizer(models.Unigram(list(scores.items()), unk_id=0))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=raw)


def joined(tokenizer, text):
    """The bytes of the tokens of a text, each after the one before it, and the text that the tokenizer decodes."""
    tokens, bytes_of = tokenizer.encode(text, add_special_tokens=False), TokenBytes(tokenizer)
    pieces = [bytes_of.of(token, previous) for previous, token in zip([None, *tokens], tokens, strict=False)]
    return b"".join(pieces), tokenizer.decode(tokens, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("make", [tiny_models.tokenizer, byte_fallback])
def test_tokens_of_bytes_are_the_text_to_the_byte(make, text):
    raw, decoded = joined(make(), text)
    assert raw.decode() == decoded == text


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (word_pieces, "running fast in the park"),
        (metaspace_words, "one two onely two"),
        (lambda: AutoTokenizer.from_pretrained(DIGITS / "thinker"), "a blue seven on black background"),
    ],
)
def test_tokens_of_words_keep_the_spaces_between_them(make, text):
    raw, decoded = joined(make(), text)
    assert raw.decode() == decoded == text


def test_a_part_of_a_character_has_its_own_bytes():
    tokenizer = tiny_models.tokenizer()
    tokens = tokenizer.encode("é", add_special_tokens=False)
    assert [TokenBytes(tokenizer).of(token, None) for token in tokens] == [b"\xc3", b"\xa9"]


def test_special_tokens_are_themselves():
    assert TextTokenizer(tiny_models.tokenizer()).token_bytes(tiny_models.END, 65) == b"</s>"


@pytest.mark.parametrize("added", ["é", "<|日本|>", "<|end|>"])
def test_an_added_token_is_what_the_tokenizer_decodes_it_to(added):
    """The byte-level decoder takes added tokens for bytes too, if all their letters are in its alphabet."""
    tokenizer = tiny_models.tokenizer()
    tokenizer.add_tokens([added])
    id = tokenizer.convert_tokens_to_ids(added)
    assert TokenBytes(tokenizer).of(id, None).decode(errors="replace") == tokenizer.decode([id])
