"""One request as it is answered: what it has written, what of it the model has seen, and when it is over.

Nothing here calls the model: a runner asks for the next tokens, and tells what was drawn.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from omni_worker.device.host_copies import to_host
from omni_worker.errors import RequestError
from omni_worker.language.loading import GenerationDefaults, LanguageModel
from omni_worker.language.sampling import RandomNumbers, TokenSampling
from omni_worker.language.text import IncrementalDetokenizer, TextTokenizer
from omni_worker.requests import (
    Completion,
    GeneratedText,
    GenerationParams,
    GenerationResult,
    SamplingParams,
    TokenLogprob,
)

MAX_TOKENS = 1024
MOST_LOGPROBS = 20


@dataclass(eq=False)
class GenerationState:
    """A request's tokens are its prompt and what it has `written`; the first `cached` of them are in the cache.

    limit: how many it may write
    how: it chooses them; the chance is each token's own
    seen: the last layer's states of all tokens up to now, where they are wanted
    finish_reason: None while more is to be written
    """

    id: str
    arrival: int
    params: GenerationParams
    prompt: list[int]
    limit: int
    how: TokenSampling
    ends: frozenset[int]
    language: TextTokenizer
    written: list[int] = field(default_factory=list)
    cached: int = 0
    finish_reason: str | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)
    seen: list[Tensor] = field(default_factory=list)
    served: int = 0

    def __post_init__(self) -> None:
        self._chance = RandomNumbers(self.params.seed)
        stop = self.params.sampling.stop
        self._pieces = IncrementalDetokenizer(self.language.decode, stop) if self.params.stream or any(stop) else None
        self._text = ""
        self._told = 0
        self._states_seen = 0
        if self.limit == 0:
            self.finish_reason = "length"
        for token in self.params.written:
            if self.finish_reason is None:
                self.write(token)
        self._text, self._told = "", len(self.written)

    @property
    def goal(self) -> int:
        """How many of its tokens the model has to see: all but the last, once that is written."""
        return len(self.prompt) + len(self.written) - (1 if self.finish_reason and self.written else 0)

    @property
    def left(self) -> int:
        """How many of them it has not seen, or no more."""
        return self.goal - self.cached

    @property
    def is_over(self) -> bool:
        """Whether all is done."""
        return self.finish_reason is not None and self.left <= 0

    @property
    def likeliest(self) -> int | None:
        """How many tokens are told at every place with their probabilities, beside the one that was drawn; None tells
        not even that one's."""
        return self.params.sampling.logprobs

    def next_tokens(self, most: int) -> list[int]:
        """Those that the model is to see next, at most so many."""
        end, prompt = min(self.goal, self.cached + most), len(self.prompt)
        if self.cached >= prompt:
            return self.written[self.cached - prompt : end - prompt]
        return self.prompt[self.cached : end] + self.written[: max(0, end - prompt)]

    def wanted_scores(self, count: int) -> range:
        """Which tokens of the answer the scores behind the next `count` tokens are wanted of: the one to be written
        next, and those that were written elsewhere and are to be told with their probabilities."""
        behind = self.cached - len(self.prompt) + 1  # the token of the answer that comes behind the next one
        first = len(self.logprobs) if self.likeliest is not None else len(self.written)
        last = len(self.written) + (self.finish_reason is None)
        return range(max(first, behind), min(last, behind + count))

    def choice(self) -> TokenSampling:
        """How the next token is drawn."""
        if self.how.temperature == 0.0:
            return self.how
        return replace(self.how, chance=self._chance.at(len(self.written)))

    def saw(self, count: int, states: Tensor | None) -> None:
        """The model has seen `count` tokens more; `states` are those of the ones that it had never seen before."""
        self.cached += count
        if states is not None:
            self.seen.append(states)
            self._states_seen += len(states)

    @property
    def states_missing_from(self) -> int | None:
        """From which of the next tokens on their states are to be kept; None where they are not wanted."""
        return max(0, self._states_seen - self.cached) if self.params.hidden_states else None

    def write(self, token: int) -> None:
        """Go on with `token`."""
        self.written.append(token)
        if token in self.ends:
            self.finish_reason = "stop"
            return
        if self._pieces is not None:
            self._text += self._pieces.add(token)
            if self._pieces.is_over:
                self.finish_reason = "stop"
        if self.finish_reason is None and len(self.written) >= self.limit:
            self.finish_reason = "length"

    def news(self) -> GeneratedText | None:
        """What was written since this was asked last, where that is to be told."""
        if not self.params.stream or self._told == len(self.written):
            return None
        news = GeneratedText(text=self._text, tokens=self.written[self._told :], logprobs=self.logprobs[self._told :])
        self._text, self._told = "", len(self.written)
        return news

    def result(self) -> GenerationResult:
        """The whole answer, once it is over."""
        if self._pieces is not None:
            self._pieces.end()
            text = self._pieces.text
        else:
            text = self.language.decode([token for token in self.written if token not in self.ends])
        assert self.finish_reason is not None
        return GenerationResult(
            steps=len(self.written),
            completion=Completion(
                written=GeneratedText(text=text, tokens=self.written, logprobs=self.logprobs),
                finish_reason=self.finish_reason,
                prompt_tokens=len(self.prompt),
            ),
            embeddings=self._embeddings(),
        )

    def _embeddings(self) -> dict[str, np.ndarray]:
        if not self.params.hidden_states:
            return {}
        states = to_host(torch.cat(self.seen).float()).numpy()
        prompt = len(self.prompt)
        return {
            "prompt_hidden_states": states[:prompt],
            "output_hidden_states": states[prompt - 1 : prompt - 1 + len(self.written)],
        }


def start_generation(id: str, arrival: int, params: GenerationParams, model: LanguageModel) -> GenerationState:
    """A request as it begins, or goes on after what it wrote elsewhere. Raises RequestError `invalid`."""
    how = _how(params.sampling, model.defaults)
    prompt = model.language.encode(params)
    bound, asked = model.context_length, params.sampling.max_tokens
    left = MAX_TOKENS + (asked or 0) if bound is None else bound - len(prompt)
    if left < (0 if asked == 0 else 1):
        raise RequestError(
            "invalid",
            f"the prompt has {len(prompt)} tokens, and {model.name} takes {bound} with the answer: make it shorter",
            "messages" if params.messages else "prompt",
        )
    if asked is not None and not 0 <= asked <= left:
        raise RequestError("invalid", f"max_tokens is {asked}: give 0 to {left}, which the prompt leaves", "max_tokens")
    limit = min(model.defaults.max_tokens or MAX_TOKENS, left) if asked is None else asked
    return GenerationState(id, arrival, params, prompt, limit, how, model.defaults.ends, model.language)


def _how(asked: SamplingParams, defaults: GenerationDefaults) -> TokenSampling:
    """What is asked, with what is left open taken from the model's defaults. Raises RequestError `invalid`."""
    how = TokenSampling(
        defaults.temperature if asked.temperature is None else asked.temperature,
        defaults.top_p if asked.top_p is None else asked.top_p,
        defaults.top_k if asked.top_k is None else asked.top_k,
    )
    logprobs = asked.logprobs or 0
    for name, value, is_right, expected in (
        ("temperature", how.temperature, 0.0 <= how.temperature < float("inf"), "0 or more"),
        ("top_p", how.top_p, 0.0 < how.top_p <= 1.0, "above 0 and at most 1"),
        ("top_k", how.top_k, how.top_k >= 0, "0 or more, where 0 leaves all in"),
        ("logprobs", logprobs, 0 <= logprobs <= MOST_LOGPROBS, f"from 0 to {MOST_LOGPROBS}"),
    ):
        if not is_right:
            raise RequestError("invalid", f"{name} is {value}: give {expected}", name)
    return how
