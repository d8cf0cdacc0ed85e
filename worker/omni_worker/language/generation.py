"""The state of one request's generation: its tokens, how many of them the model has seen, and why it ended.

This module never calls the model. A runner asks for the next tokens, calls the model, and appends the sampled tokens.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from omni_worker.device.host_copies import to_host
from omni_worker.errors import CONTEXT_LENGTH_EXCEEDED, RequestError
from omni_worker.language.loading import GenerationDefaults, LanguageModel
from omni_worker.language.sampling import RandomNumbers, TokenSampling
from omni_worker.language.score_rules import ScoreRules
from omni_worker.language.text import IncrementalDetokenizer, TextTokenizer
from omni_worker.requests import (
    MAX_PENALTY,
    MIN_PENALTY,
    Completion,
    GeneratedText,
    GenerationParams,
    GenerationResult,
    SamplingParams,
    TokenLogprob,
)

MAX_TOKENS = 1024
MAX_LOGPROBS = 20
PENALTIES = f"from {MIN_PENALTY} to {MAX_PENALTY}, where 1 changes nothing"


@dataclass(eq=False)
class GenerationState:
    """A request's tokens are its `prompt` and its `output` tokens. The first `cached` of them are in the cache.

    max_tokens: the largest number of output tokens
    sampling: how tokens are sampled; the random number is each token's own
    rules: what the model asks of the scores of its next tokens
    finish_reason: None until the last output token is known
    logprobs: of the output tokens, if the client asked for them
    hidden_states: the last layer's states of the tokens so far, if the client asked for them
    last_step: the number of the runner's last step in which the request ran
    cached_length: the length of the text when the model saw its `cached` tokens
    """

    id: str
    arrival: int
    params: GenerationParams
    prompt: list[int]
    max_tokens: int
    sampling: TokenSampling
    eos_tokens: frozenset[int]
    tokenizer: TextTokenizer
    rules: ScoreRules | None = None
    output: list[int] = field(default_factory=list)
    cached: int = 0
    finish_reason: str | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)
    hidden_states: list[Tensor] = field(default_factory=list)
    last_step: int = 0
    cached_length: int = 0

    def __post_init__(self) -> None:
        """Resume after `params.written`, the tokens that another replica generated."""
        self._random = RandomNumbers(self.params.seed)
        stop = self.params.sampling.stop
        needs_text = self.params.stream or any(stop)
        self._detokenizer = IncrementalDetokenizer(self.tokenizer.decode, stop) if needs_text else None
        self._unsent_text = ""
        self._num_sent = 0
        self._num_states = 0
        if self.max_tokens == 0:
            self.finish_reason = "length"
        for token in self.params.written:
            if self.finish_reason is None:
                self.append(token)
        self._unsent_text, self._num_sent = "", len(self.output)

    @property
    def num_required(self) -> int:
        """How many tokens the model must see: all except the last output token after the end."""
        return len(self.prompt) + len(self.output) - (1 if self.finish_reason and self.output else 0)

    @property
    def num_pending(self) -> int:
        """How many of them it has yet to see."""
        return self.num_required - self.cached

    @property
    def is_complete(self) -> bool:
        """Whether the last token is known and the model has seen all tokens that it must see."""
        return self.finish_reason is not None and self.num_pending <= 0

    @property
    def top_logprobs(self) -> int | None:
        """How many of the likeliest tokens are reported beside each output token.

        With None, even the output token's own log-probability is not reported.
        """
        return self.params.sampling.logprobs

    def next_tokens(self, count: int) -> list[int]:
        """The next tokens for the model, at most `count`."""
        end, prompt = min(self.num_required, self.cached + count), len(self.prompt)
        if self.cached >= prompt:
            return self.output[self.cached - prompt : end - prompt]
        return self.prompt[self.cached : end] + self.output[: max(0, end - prompt)]

    def places_to_score(self, count: int) -> range:
        """The places of the output whose scores the call with the next `count` tokens must give.

        These are the place of the next output token, and those of tokens from another replica whose log-probabilities
        are missing.
        """
        next_place = self.cached - len(self.prompt) + 1  # the place whose scores the next token gives
        first = len(self.logprobs) if self.top_logprobs is not None else len(self.output)
        last = len(self.output) + (self.finish_reason is None)
        return range(max(first, next_place), min(last, next_place + count))

    def next_sampling(self) -> TokenSampling:
        """How the next token is sampled."""
        if self.sampling.temperature == 0.0:
            return self.sampling
        return replace(self.sampling, random=self._random.at(len(self.output)))

    def next_scores(self, scores: Tensor) -> Tensor:
        """The scores (1, vocabulary) of the next token, by the model's rules."""
        return scores if self.rules is None else self.rules.process([*self.prompt, *self.output], scores)

    def mark_cached(self, count: int, states: Tensor | None) -> None:
        """The model has seen `count` more tokens. `states` are those of the tokens that it saw for the first time."""
        self.cached += count
        self.cached_length = self.num_required
        if states is not None:
            self.hidden_states.append(states)
            self._num_states += len(states)

    @property
    def first_missing_state(self) -> int | None:
        """The index, among the next tokens, from which on states are missing; None if the client wants no states."""
        return max(0, self._num_states - self.cached) if self.params.hidden_states else None

    def append(self, token: int) -> None:
        """Append an output token, and end the generation if it is the last one."""
        self.output.append(token)
        if token in self.eos_tokens:
            self.finish_reason = "stop"
            return
        if self._detokenizer is not None:
            self._unsent_text += self._detokenizer.add(token)
            if self._detokenizer.has_stopped:
                self.finish_reason = "stop"
        if self.finish_reason is None and len(self.output) >= self.max_tokens:
            self.finish_reason = "length"

    def take_partial(self) -> GeneratedText | None:
        """The output since the last call; None if there is none, or if the client does not stream."""
        if not self.params.stream or self._num_sent == len(self.output):
            return None
        tokens, logprobs = self.output[self._num_sent :], self.logprobs[self._num_sent :]
        partial = GeneratedText(text=self._unsent_text, tokens=tokens, logprobs=logprobs)
        self._unsent_text, self._num_sent = "", len(self.output)
        return partial

    def result(self) -> GenerationResult:
        """The result of a complete generation."""
        if self._detokenizer is not None:
            self._detokenizer.flush()
            text = self._detokenizer.text
        else:
            text = self.tokenizer.decode([token for token in self.output if token not in self.eos_tokens])
        assert self.finish_reason is not None
        return GenerationResult(
            steps=len(self.output),
            completion=Completion(
                written=GeneratedText(text=text, tokens=self.output, logprobs=self.logprobs),
                finish_reason=self.finish_reason,
                prompt_tokens=len(self.prompt),
            ),
            embeddings=self._embeddings(),
        )

    def _embeddings(self) -> dict[str, np.ndarray]:
        if not self.params.hidden_states:
            return {}
        states = to_host(torch.cat(self.hidden_states).float()).numpy()
        prompt = len(self.prompt)
        return {
            "prompt_hidden_states": states[:prompt],
            "output_hidden_states": states[prompt - 1 : prompt - 1 + len(self.output)],
        }


def start_generation(
    id: str, arrival: int, params: GenerationParams, prompt: list[int], model: LanguageModel
) -> GenerationState:
    """The state of a new request, or of one that resumes after `params.written`. Raises RequestError `invalid`.

    `prompt` are the tokens of its prompt.
    """
    sampling = _sampling(params.sampling, model.defaults)
    if (greatest := max([max(prompt), *params.written])) >= model.slots.vocabulary:
        field = "messages" if params.messages else "prompt"
        message = f"{field}: {model.name} lacks the token {greatest} of its tokenizer, a special one: leave it out"
        raise RequestError("invalid", message, field)
    context, max_tokens = model.context_length, params.sampling.max_tokens
    room = MAX_TOKENS + (max_tokens or 0) if context is None else context - len(prompt)
    if room < (0 if max_tokens == 0 else 1):
        raise RequestError(
            "invalid",
            f"the prompt has {len(prompt)} tokens, and {model.name} takes {context} with the answer: make it shorter",
            "messages" if params.messages else "prompt",
            code=CONTEXT_LENGTH_EXCEEDED,
        )
    if max_tokens is not None and not 0 <= max_tokens <= room:
        # A shorter prompt helps only if the model has that many tokens at all.
        would_fit = context is not None and 0 < max_tokens < context
        raise RequestError(
            "invalid",
            f"max_tokens: {max_tokens} does not fit: give 1 to {room}, which the {len(prompt)} of the prompt leave",
            "max_tokens",
            code=CONTEXT_LENGTH_EXCEEDED if would_fit else None,
        )
    if max_tokens is None:
        max_tokens = min(model.defaults.max_tokens or MAX_TOKENS, room)
    rules = model.defaults.score_rules.for_request(prompt, max_tokens, params.sampling)
    if rules is not None:
        sampling = replace(sampling, filters=rules.filters)
    eos_tokens = model.defaults.eos_tokens
    return GenerationState(id, arrival, params, prompt, max_tokens, sampling, eos_tokens, model.tokenizer, rules)


def _sampling(params: SamplingParams, defaults: GenerationDefaults) -> TokenSampling:
    """The request's sampling, with the model's defaults for what it leaves open. Raises RequestError `invalid`."""
    sampling = TokenSampling(
        defaults.temperature if params.temperature is None else params.temperature,
        defaults.top_p if params.top_p is None else params.top_p,
        defaults.top_k if params.top_k is None else params.top_k,
    )
    logprobs, min_p = params.logprobs or 0, params.min_p or 0.0
    penalty = 1.0 if params.repetition_penalty is None else params.repetition_penalty
    for name, value, is_valid, expected in (
        ("temperature", sampling.temperature, 0.0 <= sampling.temperature < float("inf"), "0 or more"),
        ("top_p", sampling.top_p, 0.0 < sampling.top_p <= 1.0, "above 0 and at most 1"),
        ("top_k", sampling.top_k, sampling.top_k >= 0, "0 or more, where 0 leaves all in"),
        ("min_p", min_p, 0.0 <= min_p <= 1.0, "from 0 to 1"),
        ("repetition_penalty", penalty, MIN_PENALTY <= penalty <= MAX_PENALTY, PENALTIES),
        ("logprobs", logprobs, 0 <= logprobs <= MAX_LOGPROBS, f"from 0 to {MAX_LOGPROBS}"),
    ):
        if not is_valid:
            raise RequestError("invalid", f"{name}: {value} is not valid: give {expected}", name)
    return sampling
