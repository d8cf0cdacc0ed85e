"""Tokenizes prompts before a request reaches its runner, and outside of the thread that calls the model."""

from typing import NamedTuple

from omni_worker.errors import CONTEXT_LENGTH_EXCEEDED, RequestError
from omni_worker.language.text import TextTokenizer
from omni_worker.requests import GenerationParams

QUICK_CHARACTERS = 20_000


class TokenizedPrompt(NamedTuple):
    """A request with the tokens of its prompt."""

    params: GenerationParams
    tokens: list[int]


class PromptTokenizer:
    """Tokenizes prompts for a model that takes `context` tokens (None: any number).

    If a token stands for a bounded number of characters, a text that is far too long is rejected without tokenizing it.
    """

    def __init__(self, tokenizer: TextTokenizer, context: int | None) -> None:
        self._tokenizer = tokenizer
        longest = tokenizer.longest_token
        self._limit = None if context is None or longest is None else context * longest
        self._context = context

    def is_quick(self, params: GenerationParams) -> bool:
        """Whether the text takes milliseconds to tokenize."""
        return num_characters(params) <= QUICK_CHARACTERS

    def prepare(self, params: GenerationParams) -> TokenizedPrompt:
        """Tokenize the prompt. Raises RequestError `invalid`."""
        length = num_characters(params)
        if self._limit is not None and length > self._limit:
            raise self._too_long(params, f"{length} characters")
        tokens = self._tokenizer.encode(params)
        if self._context is not None and len(tokens) > self._context:
            raise self._too_long(params, f"{len(tokens)} tokens")
        return TokenizedPrompt(params, tokens)

    def _too_long(self, params: GenerationParams, size: str) -> RequestError:
        field = "messages" if params.messages else "prompt"
        message = f"the prompt has {size}, and the model takes {self._context} tokens with the answer: make it shorter"
        return RequestError("invalid", message, field, code=CONTEXT_LENGTH_EXCEEDED)


def num_characters(params: GenerationParams) -> int:
    """The length of the text that a model reads."""
    return sum(len(one.content) for one in params.messages) if params.messages else len(params.prompt)
