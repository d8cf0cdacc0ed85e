"""The runner of an autoregressive stage: keeps the state of its requests, and writes on for many of them at once.

Tokens of a request that the model has not seen go through it in chunks (a prefill), in the same call as the single
tokens of the others (a decode): so nobody waits for more than one call of bounded size. When none is left, the next one
is drawn. A failure stays with its request: a batch that fails is run again one request at a time.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import torch

from omni_worker.device.out_of_memory import is_out_of_memory
from omni_worker.engine.runner.interface import Runner
from omni_worker.engine.scheduler import RequestOutput, RunnerOutput, SchedulerOutput, SchedulerRequest
from omni_worker.errors import RequestError
from omni_worker.language.generation import GenerationState, start_generation
from omni_worker.language.loading import LanguageModel
from omni_worker.language.model import RowInput, RowResult
from omni_worker.language.sampling import log_probabilities, sample_tokens
from omni_worker.requests import TokenLogprob

log = logging.getLogger(__name__)
CHUNK = 256
CALL = 1024  # the most tokens of one call, but for single ones
KEY = "tokens"
IDLE_TURNS = 8
UNTOLD = TokenLogprob("", 0.0)


class AutoregressiveRunner(Runner):
    """Runs a language model. Every payload is a GenerationParams, every result a GenerationResult.

    With `encode_only` nothing is written: the result is the hidden states of the prompt. Where ranks have parts of the
    model, all of them keep the same requests and write the same tokens; the last one has the results.
    """

    def __init__(self, model: LanguageModel, encode_only: bool = False) -> None:
        self._model = model
        self._cache = model.slots.cache
        self.answering_rank = model.slots.chain.size - 1
        self._encode_only = encode_only
        self._states: dict[str, GenerationState] = {}
        self._arrivals = 0
        self._turn = 0
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
        return RunnerOutput(output.step_id, (*prepared, *advanced), self._call_seconds, self._out_of_memory)

    def stats(self) -> dict[str, Any]:
        cached = self._cache.rows * self._cache.length
        return {"states": len(self._states), "slots": len(self._cache.holders), "cache_tokens": cached, **self._counts}

    def close(self) -> None:
        for id in list(self._states):
            self._drop(id)

    def _prepare(self, request: SchedulerRequest) -> RequestOutput:
        params = request.payload
        if self._encode_only:
            sampling = msgspec.structs.replace(params.sampling, max_tokens=0)
            params = msgspec.structs.replace(params, sampling=sampling, hidden_states=True, written=())
        try:
            state = start_generation(request.id, self._arrivals, params, self._model)
        except Exception as error:
            return RequestOutput(request.id, error=error)
        self._arrivals += 1
        self._states[state.id] = state
        return self._outcome(state)

    def _advance(self, states: Sequence[GenerationState]) -> list[RequestOutput]:
        self._turn += 1
        for state in states:
            state.served = self._turn
        able, counts = self._make_room(states)
        began = time.perf_counter()
        try:
            failures = self._step(able, counts) if able else {}
        except Exception as error:
            if len(able) > 1:
                log.warning("a batch of %d failed and is run again one by one: %s", len(able), error)
                outputs = [output for state in states for output in self._advance([state])]
                self._call_seconds, self._out_of_memory = None, is_out_of_memory(error)
                return outputs
            failures = {able[0].id: error}
        is_usual = len(able) == len(states) and set(counts) == {1}
        self._call_seconds = time.perf_counter() - began if is_usual else None
        if able:
            self._counts["batched_calls" if len(able) > 1 else "single_calls"] += 1
        return [self._outcome(state, failures.get(state.id)) for state in states]

    def _make_room(self, states: Sequence[GenerationState]) -> tuple[list[GenerationState], list[int]]:
        """Those of `states` that have room in the call and in the cache now, and how many tokens each; the others wait.

        Where memory is short, a request takes the rows of those that came after it, and of those that nobody runs;
        they are seen again from their beginning when they go on. So the oldest always goes on.
        """
        able: list[GenerationState] = []
        counts: dict[str, int] = {}
        room = CALL
        for state in sorted(states, key=lambda state: state.arrival):
            count = min(state.left, CHUNK, max(room, 1))
            if count > 1 or state.left == 1:
                able.append(state)
                counts[state.id] = count
                room -= count if count > 1 else 0
        while able:
            length = max(state.cached + counts[state.id] for state in able)
            if self._cache.reserve([state.id for state in able], length):
                break
            if (victim := self._victim(able)) is None:
                able.pop()
            else:
                self._cache.release(victim.id)
                self._counts["tokens_seen_again"] += victim.cached
                victim.cached = 0
        return able, [counts[state.id] for state in able]

    def _victim(self, able: Sequence[GenerationState]) -> GenerationState | None:
        others = [self._states[id] for id in self._cache.holders if self._states[id] not in able]
        younger = [one for one in others if one.arrival > able[-1].arrival]
        idle = [one for one in others if one.served < self._turn - IDLE_TURNS]
        return max(younger or idle, key=lambda one: one.arrival, default=None)

    def _step(self, states: Sequence[GenerationState], counts: Sequence[int]) -> Mapping[str, Exception]:
        """One model call, and one more token for each that comes to its end by it; the failures, by id."""
        rows, wanted = [], []
        for state, count in zip(states, counts, strict=True):
            tokens = state.next_tokens(count)
            places = state.wanted_scores(len(tokens))
            before = state.cached - len(state.prompt) + 1
            rows.append(RowInput(state.id, tokens, state.cached, [place - before for place in places]))
            wanted += [(state, place) for place in places]
        next_ones = [i for i, (state, place) in enumerate(wanted) if place == len(state.written)]
        choices = [wanted[i][0].choice() for i in next_ones]

        def choose(answer: RowResult) -> list[int]:
            scores = answer.logits if len(next_ones) == len(wanted) else answer.logits[next_ones]
            return sample_tokens(scores, choices) if next_ones else []

        answer, drawn = self._model.slots.run(rows, len(next_ones), choose)
        tokens_at = dict(zip(next_ones, drawn, strict=True))
        failures: dict[str, Exception] = {
            wanted[i][0].id: RequestError("failed", "the model gave scores that are no numbers")
            for i, token in tokens_at.items()
            if token < 0
        }
        explained = [
            (i, state, tokens_at[i] if i in tokens_at else state.written[place])
            for i, (state, place) in enumerate(wanted)
            if state.likeliest is not None and state.id not in failures
        ]
        failures |= self._explain(answer, explained)
        for i, (state, row) in enumerate(zip(states, rows, strict=True)):
            kept = state.states_missing_from
            fresh = answer.states_of(i, kept, len(row.tokens)) if answer is not None and kept is not None else None
            state.saw(len(row.tokens), fresh)
        for i, token in tokens_at.items():
            if (state := wanted[i][0]).id not in failures:
                try:
                    state.write(token)
                except Exception as error:
                    failures[state.id] = error
        self._counts["tokens"] += len(drawn)
        return failures

    def _explain(
        self, answer: RowResult | None, explained: Sequence[tuple[int, GenerationState, int]]
    ) -> dict[str, Exception]:
        """Add to each request's log-probabilities those of a token; without an answer only the place is kept."""
        failures: dict[str, Exception] = {}
        if answer is None:
            for _, state, _ in explained:
                state.logprobs.append(UNTOLD)
        if answer is None or not explained:
            return failures
        rows, states, tokens = zip(*explained, strict=True)
        most = max(state.likeliest or 0 for state in states)
        own, likeliest, logs = (one.tolist() for one in log_probabilities(answer.logits[list(rows)], tokens, most))
        for i, (state, token) in enumerate(zip(states, tokens, strict=True)):
            name, count = state.language.token, state.likeliest or 0
            try:
                likely = zip(map(name, likeliest[i][:count]), logs[i][:count], strict=True)
                state.logprobs.append(TokenLogprob(name(token), own[i], tuple(likely)))
            except Exception as error:  # whatever the tokenizer says of a token that it has no text for
                failures[state.id] = error
        return failures

    def _outcome(self, state: GenerationState, error: Exception | None = None) -> RequestOutput:
        steps = len(state.written)
        if error is None and not state.is_over:
            return RequestOutput(state.id, KEY, True, steps, state.limit, partial=state.news())
        self._drop(state.id)
        if error is None and not self._model.slots.chain.is_last:
            return RequestOutput(state.id, step=steps, total_steps=state.limit)
        if error is None:
            try:
                return RequestOutput(state.id, step=steps, total_steps=state.limit, result=state.result())
            except Exception as failure:
                error = failure
        return RequestOutput(state.id, step=steps, error=error)

    def _drop(self, id: str) -> None:
        self._states.pop(id, None)
        self._cache.release(id)
