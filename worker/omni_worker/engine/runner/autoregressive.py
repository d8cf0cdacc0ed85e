"""The runner of an autoregressive stage: keeps the state of its requests, and decodes many of them in one batch.

Tokens that the model has not seen go through it in chunks (prefill), in the same call as the single tokens of other
requests (decode). So no request waits for more than one call of bounded size. After a request's last pending token, the
next one is sampled. A failed batch runs again one request at a time, so that only the culprit fails.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor

from omni_worker.device.out_of_memory import free_failed_work, is_out_of_memory
from omni_worker.device.timing import TimedCall
from omni_worker.engine.runner.interface import TOKENS_PHASE, Runner
from omni_worker.engine.scheduler import RequestOutput, RunnerOutput, SchedulerOutput, SchedulerRequest
from omni_worker.errors import RequestError
from omni_worker.language.generation import GenerationState, start_generation
from omni_worker.language.loading import LanguageModel
from omni_worker.language.model import RowInput, RowResult
from omni_worker.language.prompts import PromptTokenizer, TokenizedPrompt
from omni_worker.language.sampling import log_probabilities, sample_tokens
from omni_worker.requests import TokenLogprob, token_logprob

log = logging.getLogger(__name__)
CHUNK_TOKENS = 256
CALL_TOKENS = 1024  # the largest number of prefill tokens in one call
IDLE_STEPS = 8
NO_LOGPROB = TokenLogprob("", 0.0)


class TokensKey(NamedTuple):
    """The key of a language model's calls. There is only one: all of them can share a batch."""

    phase: str = TOKENS_PHASE

    @property
    def labels(self) -> tuple[str, str, str]:
        """Phase, model and variant, for metrics and traces."""
        return self.phase, "language-model", "0"


KEY = TokensKey()


class AutoregressiveRunner(Runner):
    """Runs a language model. Every payload is a TokenizedPrompt or a GenerationParams, every result a GenerationResult.

    With `encode_only` it generates no tokens: the result is the hidden states of the prompt. If ranks have parts of the
    model, all of them keep the same requests and append the same tokens; the last one has the results.
    """

    def __init__(self, model: LanguageModel, encode_only: bool = False) -> None:
        self._model = model
        self._tokenizer = PromptTokenizer(model.tokenizer, model.context_length)
        self._cache = model.slots.cache
        self.answering_rank = model.slots.chain.size - 1
        self._encode_only = encode_only
        self._states: dict[str, GenerationState] = {}
        self._arrivals = 0
        self._step_number = 0
        self._counts = {"batched_calls": 0, "single_calls": 0, "tokens": 0, "tokens_seen_again": 0}
        self._call_seconds: float | None = None
        self._out_of_memory = False

    def execute(self, output: SchedulerOutput) -> RunnerOutput:
        for id in output.finished:
            self._drop(id)
        prepared = [self._prepare(request) for request in output.new]
        self._call_seconds, self._out_of_memory = None, False
        advanced: list[RequestOutput] = []
        if output.cached:
            with torch.inference_mode():
                advanced = self._advance([self._states[id] for id in output.cached])
        timed = None if self._call_seconds is None else TimedCall(output.step_id, self._call_seconds)
        return RunnerOutput(output.step_id, (*prepared, *advanced), timed, self._out_of_memory)

    def stats(self) -> dict[str, Any]:
        cache = {"slots": len(self._cache.ids), "cache_tokens": self._cache.size}
        return {"states": len(self._states), **cache, **self._counts}

    def close(self) -> None:
        for id in list(self._states):
            self._drop(id)

    def _prepare(self, request: SchedulerRequest) -> RequestOutput:
        try:
            state = self._start(request)
        except Exception as error:
            return RequestOutput(request.id, error=error)
        self._arrivals += 1
        self._states[state.id] = state
        return self._outcome(state)

    def _start(self, request: SchedulerRequest) -> GenerationState:
        payload = request.payload
        params, tokens = payload if isinstance(payload, TokenizedPrompt) else self._tokenizer.prepare(payload)
        if self._encode_only:
            sampling = msgspec.structs.replace(params.sampling, max_tokens=0)
            params = msgspec.structs.replace(params, sampling=sampling, hidden_states=True, written=())
        return start_generation(request.id, self._arrivals, params, tokens, self._model)

    def _advance(self, states: Sequence[GenerationState]) -> list[RequestOutput]:
        self._step_number += 1
        for state in states:
            state.last_step = self._step_number
            if self._model.slots.is_beyond_border(state.cached_length, state.num_required):
                self._forget(state)
        fitting, counts = self._make_room(states)
        began = time.perf_counter()
        failures: Mapping[str, Exception] = {}
        failure: Exception | None = None
        try:
            failures = self._step(fitting, counts) if fitting else {}
        except Exception as error:
            failure = error
        if failure is not None and len(fitting) > 1:
            return self._run_one_by_one(states, failure)
        if failure is not None:
            failures = {fitting[0].id: failure}
        is_typical = len(fitting) == len(states) and set(counts) == {1}
        self._call_seconds = time.perf_counter() - began if is_typical else None
        if fitting:
            self._counts["batched_calls" if len(fitting) > 1 else "single_calls"] += 1
        return [self._outcome(state, failures.get(state.id)) for state in states]

    def _run_one_by_one(self, states: Sequence[GenerationState], error: Exception) -> list[RequestOutput]:
        """Advance each request of a batch that failed. Nothing of the failed attempt is in memory any more."""
        log.warning("a batch of %d failed and is run again one by one: %s", len(states), error)
        out_of_memory = is_out_of_memory(error)
        free_failed_work(error)
        outputs = [output for state in states for output in self._advance([state])]
        self._call_seconds, self._out_of_memory = None, out_of_memory
        return outputs

    def _make_room(self, states: Sequence[GenerationState]) -> tuple[list[GenerationState], list[int]]:
        """The requests that fit into this call and into the cache, with their numbers of tokens; the others wait.

        If memory is short, a request evicts requests that arrived after it, and requests that have not run lately. An
        evicted request starts again from its first token. So the oldest request always advances.
        """
        fitting: list[GenerationState] = []
        counts: dict[str, int] = {}
        room = CALL_TOKENS
        for state in sorted(states, key=lambda state: state.arrival):
            count = min(state.num_pending, CHUNK_TOKENS, max(room, 1))
            if count > 1 or state.num_pending == 1:
                fitting.append(state)
                counts[state.id] = count
                room -= count if count > 1 else 0
        while fitting:
            if self._cache.reserve({state.id: state.num_required for state in fitting}):
                break
            if (evicted := self._to_evict(fitting)) is None:
                fitting.pop()
            else:
                self._cache.release(evicted.id)
                self._forget(evicted)
        return fitting, [counts[state.id] for state in fitting]

    def _forget(self, state: GenerationState) -> None:
        """Make the model see the request's tokens again from the first one on."""
        self._counts["tokens_seen_again"] += state.cached
        state.cached = state.cached_length = 0

    def _to_evict(self, fitting: Sequence[GenerationState]) -> GenerationState | None:
        others = [self._states[id] for id in self._cache.ids if self._states[id] not in fitting]
        younger = [one for one in others if one.arrival > fitting[-1].arrival]
        idle = [one for one in others if one.last_step < self._step_number - IDLE_STEPS]
        return max(younger or idle, key=lambda one: one.arrival, default=None)

    def _step(self, states: Sequence[GenerationState], counts: Sequence[int]) -> Mapping[str, Exception]:
        """One model call, and one more token for each request without pending tokens; returns the failures by id."""
        rows, scored = [], []
        for state, count in zip(states, counts, strict=True):
            tokens = state.next_tokens(count)
            places = state.places_to_score(len(tokens))
            first = state.cached - len(state.prompt) + 1
            scores = [place - first for place in places]
            rows.append(RowInput(state.id, tokens, state.cached, scores, state.num_required))
            scored += [(state, place) for place in places]
        to_sample = [i for i, (state, place) in enumerate(scored) if place == len(state.output)]
        samplings = [scored[i][0].next_sampling() for i in to_sample]

        def sample(result: RowResult) -> list[int]:
            if not to_sample:
                return []
            logits = result.logits if len(to_sample) == len(scored) else result.logits[to_sample]
            return sample_tokens(_by_rules(logits, [scored[i][0] for i in to_sample]), samplings)

        result, sampled = self._model.slots.run(rows, len(to_sample), sample)
        tokens_at = dict(zip(to_sample, sampled, strict=True))
        failures: dict[str, Exception] = {
            scored[i][0].id: RequestError("failed", "the model gave scores that are no numbers")
            for i, token in tokens_at.items()
            if token < 0
        }
        reported = [
            (i, state, place, tokens_at[i] if i in tokens_at else state.output[place])
            for i, (state, place) in enumerate(scored)
            if state.top_logprobs is not None and state.id not in failures
        ]
        failures |= self._add_logprobs(result, reported)
        for i, (state, row) in enumerate(zip(states, rows, strict=True)):
            first_state = state.first_missing_state
            new = None
            if result is not None and first_state is not None:
                new = result.states_of(i, first_state, len(row.tokens))
            state.mark_cached(len(row.tokens), new)
        for i, token in tokens_at.items():
            if (state := scored[i][0]).id not in failures:
                try:
                    state.append(token)
                except Exception as error:
                    failures[state.id] = error
        self._counts["tokens"] += len(sampled)
        return failures

    def _add_logprobs(
        self, result: RowResult | None, reported: Sequence[tuple[int, GenerationState, int, int]]
    ) -> dict[str, Exception]:
        """Add the log-probabilities of tokens to their requests, given as (row of the logits, request, place in
        the output, token).

        On a rank without a result it adds placeholders. Returns the failures by id.
        """
        failures: dict[str, Exception] = {}
        if result is None:
            for _, state, _, _ in reported:
                state.logprobs.append(NO_LOGPROB)
        if result is None or not reported:
            return failures
        rows, states, places, tokens = zip(*reported, strict=True)
        most = max(state.top_logprobs or 0 for state in states)
        own, likeliest, logs = (one.tolist() for one in log_probabilities(result.logits[list(rows)], tokens, most))
        for i, (state, place, token) in enumerate(zip(states, places, tokens, strict=True)):
            previous, count = state.output[place - 1] if place else None, state.top_logprobs or 0
            try:
                raw, *others = (state.tokenizer.token_bytes(one, previous) for one in [token, *likeliest[i][:count]])
                state.logprobs.append(token_logprob(raw, own[i], others, logs[i][:count]))
            except Exception as error:  # a tokenizer may raise anything for a token without a text
                failures[state.id] = error
        return failures

    def _outcome(self, state: GenerationState, error: Exception | None = None) -> RequestOutput:
        steps = len(state.output)
        if error is None and not state.is_complete:
            return RequestOutput(state.id, KEY, True, steps, state.max_tokens, partial=state.take_partial())
        self._drop(state.id)
        if error is None and not self._model.slots.chain.is_last:
            return RequestOutput(state.id, step=steps, total_steps=state.max_tokens)
        if error is None:
            try:
                return RequestOutput(state.id, step=steps, total_steps=state.max_tokens, result=state.result())
            except Exception as failure:
                error = failure
        return RequestOutput(state.id, step=steps, error=error)

    def _drop(self, id: str) -> None:
        self._states.pop(id, None)
        self._cache.release(id)


def _by_rules(logits: Tensor, states: Sequence[GenerationState]) -> Tensor:
    """`logits` (rows, vocabulary), or changed copies of them where the models of the requests have rules for scores."""
    if all(state.rules is None for state in states):
        return logits
    return torch.cat([state.next_scores(row[None].float()) for state, row in zip(states, logits, strict=True)])
