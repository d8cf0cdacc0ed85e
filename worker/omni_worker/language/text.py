"""Converts between text and tokens: the prompt on the way in, the output on the way out, token by token.

Streamed text is final: no later token can change it. So the detokenizer holds back an incomplete character, and text
that may be the start of a stop string.
"""

from collections.abc import Callable, Sequence
from typing import Any

from tokenizers import models

from omni_worker.errors import RequestError
from omni_worker.language.token_bytes import TokenBytes
from omni_worker.requests import GenerationParams

INCOMPLETE = "\ufffd"  # a tokenizer decodes an incomplete character to this


class TextTokenizer:
    """A tokenizer of transformers, for prompts and outputs."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._token_bytes = TokenBytes(tokenizer)
        self.longest_token = _longest_token(tokenizer)
        """The most characters of a text that one token can stand for; None if there is no bound."""

    def encode(self, params: GenerationParams) -> list[int]:
        """The prompt's tokens. A conversation goes through the chat template if the tokenizer has one.

        Raises RequestError `invalid`.
        """
        if params.messages and self._tokenizer.chat_template:
            messages = [{"role": one.role, "content": one.content} for one in params.messages]
            try:
                text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            except Exception as error:  # templates may raise anything for messages that they do not support
                raise RequestError(
                    "invalid", f"the model's chat template refuses these messages: {error}", "messages"
                ) from error
            tokens = self._tokenizer.encode(text, add_special_tokens=False)
        else:
            tokens = self._tokenizer.encode(params.prompt)
        if not tokens and self._tokenizer.bos_token_id is not None:
            tokens = [self._tokenizer.bos_token_id]
        if not tokens:
            raise RequestError("invalid", "the prompt is empty: this model needs something to begin with", "prompt")
        return list(tokens)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, without special tokens."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def token_bytes(self, token: int, previous: int | None) -> bytes:
        """The bytes of one token, which may be a special token, as they stand after `previous` in an output."""
        return self._token_bytes.of(token, previous)


def _longest_token(tokenizer: Any) -> int | None:
    """Byte-pair encodings cover every character with a token of the vocabulary; others may drop what they lack."""
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    if not isinstance(model, models.BPE) or (model.unk_token is not None and not model.byte_fallback):
        return None
    return max(map(len, tokenizer.get_vocab()))


class IncrementalDetokenizer:
    """The text of an output that grows token by token. It `has_stopped` at the first stop string.

    As in vLLM, a window of recent tokens is decoded: those from `_prefix_offset` on, of which the ones before
    `_read_offset` are in `text` already. So the cost of a token does not depend on the length of the output.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = tuple(filter(None, stop))
        self._tokens: list[int] = []
        self._prefix_offset = self._read_offset = 0
        self._num_returned = 0
        self.text = ""
        self.has_stopped = False

    def add(self, token: int) -> str:
        """Add a token; returns the text that became final."""
        self._tokens.append(token)
        before = self._decode(self._tokens[self._prefix_offset : self._read_offset])
        now = self._decode(self._tokens[self._prefix_offset :])
        if len(now) > len(before) and not now.endswith(INCOMPLETE):
            self._prefix_offset, self._read_offset = self._read_offset, len(self._tokens)
            self.text += now[len(before) :]
            self._cut_at_stop()
        return self._take(len(self.text) - (0 if self.has_stopped else self._num_held_back()))

    def flush(self) -> str:
        """The text that was held back, after the last token."""
        if not self.has_stopped:
            before = self._decode(self._tokens[self._prefix_offset : self._read_offset])
            self.text += self._decode(self._tokens[self._prefix_offset :])[len(before) :]
            self._prefix_offset = self._read_offset = len(self._tokens)
        return self._take(len(self.text))

    def _take(self, end: int) -> str:
        piece = self.text[self._num_returned : end]
        self._num_returned = max(self._num_returned, end)
        return piece

    def _cut_at_stop(self) -> None:
        found = [place for stop in self._stop if (place := self.text.find(stop, self._num_returned)) >= 0]
        if found:
            self.text, self.has_stopped = self.text[: min(found)], True

    def _num_held_back(self) -> int:
        """How many characters at the end may be the start of a stop string."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for count in range(min(longest, len(self.text) - self._num_returned), 0, -1):
            end = self.text[-count:]
            if any(stop.startswith(end) for stop in self._stop):
                return count
        return 0
