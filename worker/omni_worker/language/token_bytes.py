"""The bytes of single tokens as they stand in an output, so that the bytes of its tokens, joined, are its text.

Decoding a token by itself loses what it is part of: sentencepiece and word tokenizers drop the space before a word, and
a part of a character becomes U+FFFD.
"""

import functools
import json
import re
from typing import Any

from tokenizers import pre_tokenizers

CACHED_TOKENS = 2**16
BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
"""How tokenizers with a byte fallback write a token of one byte."""


class TokenBytes:
    """The bytes of the tokens of one tokenizer of transformers."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        decoder = _decoder_types(tokenizer)
        self._byte_of = _bytes_of_letters() if "ByteLevel" in decoder else {}
        self._has_byte_tokens = "ByteFallback" in decoder
        added: dict[str, int] = tokenizer.get_added_vocab()
        self._added = {id: text.encode(errors="replace") for text, id in added.items()}
        self.of = functools.lru_cache(CACHED_TOKENS)(self._of)
        """The bytes of a token after the token `previous`, or at the start of the output if that is None."""

    def _of(self, token: int, previous: int | None) -> bytes:
        piece = self._tokenizer.convert_ids_to_tokens(token) if self._byte_of or self._has_byte_tokens else None
        if piece is not None and self._byte_of and all(letter in self._byte_of for letter in piece):
            return bytes(self._byte_of[letter] for letter in piece)
        if token in self._added:
            return self._added[token]
        if piece is not None and self._has_byte_tokens and (byte := BYTE_TOKEN.fullmatch(piece)):
            return bytes([int(byte[1], 16)])
        if previous is not None:
            before, both = self._decode(previous), self._decode(previous, token)
            if both.startswith(before):
                return both[len(before) :].encode(errors="replace")
        return self._decode(token).encode(errors="replace")

    def _decode(self, *tokens: int) -> str:
        return str(self._tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))


def _decoder_types(tokenizer: Any) -> frozenset[str]:
    """The types of the tokenizer's decoder and of its parts; none for a tokenizer without a backend of `tokenizers`."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    state = json.loads(decoder.__getstate__()) if decoder is not None else {}
    return frozenset(part["type"] for part in [state, *state.get("decoders", ())] if "type" in part)


def _bytes_of_letters() -> dict[str, int]:
    """The byte of each letter of the byte-level alphabet of GPT-2.

    Bytes that are printable in Latin-1 stand for themselves; the others are, in order, the letters from U+0100 on.
    """
    letters = set(pre_tokenizers.ByteLevel.alphabet())
    own = {chr(byte): byte for byte in range(256) if chr(byte) in letters}
    others = (byte for byte in range(256) if chr(byte) not in letters)
    return own | {chr(256 + place): byte for place, byte in enumerate(others)}
