"""Between text and tokens: the prompt on the way in, and the answer on the way out, piece by piece.

A piece of text is certain when no token to come can change it: an unfinished character is held back, and so is what
may be the beginning of a text to stop at.
"""

from collections.abc import Callable, Sequence
from typing import Any

from omni_worker.errors import RequestError
from omni_worker.requests import GenerationParams

UNFINISHED = "\ufffd"  # what decoding makes of a part of a character


class TextTokenizer:
    """A tokenizer, as prompts and answers need it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def encode(self, params: GenerationParams) -> list[int]:
        """The prompt's tokens: by the chat template where there is a conversation and the tokenizer has one.

        Raises RequestError `invalid`.
        """
        if params.messages and self._tokenizer.chat_template:
            messages = [{"role": one.role, "content": one.content} for one in params.messages]
            try:
                text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            except Exception as error:  # a template may refuse what it does not know, in any way it likes
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
        """The text of tokens, without those that are marks."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def token(self, token: int) -> str:
        """The text of one token, marks too."""
        return str(self._tokenizer.decode([token], clean_up_tokenization_spaces=False))


class IncrementalDetokenizer:
    """An answer's text as it grows, token by token; it `is_over` at the first of the texts to stop at."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = tuple(filter(None, stop))
        self._tokens: list[int] = []
        self._begin = self._read = 0
        self._told = 0
        self.text = ""
        self.is_over = False

    def add(self, token: int) -> str:
        """The text that is certain now and was not before."""
        self._tokens.append(token)
        before = self._decode(self._tokens[self._begin : self._read])
        now = self._decode(self._tokens[self._begin :])
        if len(now) > len(before) and not now.endswith(UNFINISHED):
            self._begin, self._read = self._read, len(self._tokens)
            self.text += now[len(before) :]
            self._look_for_stop()
        return self._tell(len(self.text) - (0 if self.is_over else self._held_back()))

    def end(self) -> str:
        """What was held back, now that no token comes any more."""
        if not self.is_over:
            before = self._decode(self._tokens[self._begin : self._read])
            self.text += self._decode(self._tokens[self._begin :])[len(before) :]
            self._begin = self._read = len(self._tokens)
        return self._tell(len(self.text))

    def _tell(self, until: int) -> str:
        piece = self.text[self._told : until]
        self._told = max(self._told, until)
        return piece

    def _look_for_stop(self) -> None:
        found = [place for stop in self._stop if (place := self.text.find(stop, self._told)) >= 0]
        if found:
            self.text, self.is_over = self.text[: min(found)], True

    def _held_back(self) -> int:
        """How much of the end may be the beginning of a text to stop at."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for count in range(min(longest, len(self.text) - self._told), 0, -1):
            end = self.text[-count:]
            if any(stop.startswith(end) for stop in self._stop):
                return count
        return 0
