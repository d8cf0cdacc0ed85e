"""Turns any diffusers pipeline into a step pipeline by intercepting its model calls.

Each request runs the pipeline's own, unmodified `__call__` in a greenlet, on a shallow copy of the pipeline. In the
copy, the models are stand-ins and the timestep schedulers belong to the request. A stand-in is a shallow copy of a
model (same class, same weights, same attributes) with some methods replaced. When the pipeline calls such a method,
the method suspends the greenlet and hands the arguments to the driver. The driver computes the result and resumes the
greenlet with it, and the pipeline's own code continues. So outputs equal diffusers' own, an abort is an exception
thrown into the greenlet, and a request waits as long as nobody resumes it.
"""

import copy
import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec
import numpy as np
import torch
from greenlet import greenlet

from omni_worker.device.out_of_memory import is_out_of_memory
from omni_worker.errors import RequestError
from omni_worker.model_card import ServingDefaults
from omni_worker.pipelines.adapter_layers import Selection
from omni_worker.pipelines.adapter_store import AdapterStore
from omni_worker.pipelines.arguments.call_arguments import CallArguments
from omni_worker.pipelines.arguments.embeddings import STRUCTURE, replay_encode_prompt
from omni_worker.pipelines.arguments.results import unfinished_result
from omni_worker.pipelines.batching.batches import ProvenBatches
from omni_worker.pipelines.batching.calls import Call
from omni_worker.pipelines.batching.comparing import TensorEquality
from omni_worker.pipelines.components import DENOISE
from omni_worker.pipelines.interception.feature_caches import FeatureCaches
from omni_worker.pipelines.interception.pipeline_copies import PipelineCopies
from omni_worker.pipelines.interception.previews import PreviewRun, Previews
from omni_worker.pipelines.interception.prompt_cache import PromptCache
from omni_worker.pipelines.interception.runs import Pending, Run
from omni_worker.pipelines.interception.skipping import Skipping
from omni_worker.pipelines.interception.speculation import SpeculatedResults, Speculation, SpeculationScores
from omni_worker.pipelines.interception.timestep_schedulers import copy_for_request, magnifies_rounding
from omni_worker.pipelines.offload import ComponentOffload
from omni_worker.pipelines.protocol import StepState
from omni_worker.pipelines.request_context import RequestContext
from omni_worker.requests import NO_CACHE, CacheSettings, GenerationParams

log = logging.getLogger(__name__)
MAX_SPECULATING_REQUESTS = 4  # per unit of processes; more requests fill a batch without speculation


class InterceptedPipeline:
    """A step pipeline around a loaded `diffusers.DiffusionPipeline`.

    Every open request has a `Run`, which is in one of these states:

    | state                      | pending            | held     | next                                              |
    |----------------------------|--------------------|----------|---------------------------------------------------|
    | runs the pipeline's code   | None               | None     | the pipeline calls a model, or returns            |
    | waits for its own call     | own call           | None     | `step_scheduler` resumes the greenlet             |
    | waits for a preview's call | the preview's call | own call | `step_scheduler` continues the preview; after its |
    |                            |                    |          | last call, the held call is pending again         |
    | finished                   | None               | None     | `post_decode` returns the result                  |

    A due preview starts when the request's own call has just become pending. `close` ends a run in any state.

    If the models keep state between their calls, as the feature caches of diffusers do, a request runs from start to
    end in `prepare_encode`.

    Speculation: if several requests run, but not too many, a request's later calls of a step run together with its
    first one. A single request makes its calls one by one, so that its output equals diffusers' own bit for bit, unless
    there are other ranks to share the calls with.

    Prompt cache: a text encoder's call whose result is kept is answered at once, too.

    Skipping: where a request's predictions are smooth, its calls are answered at once, and it continues to the next
    call that must be computed. So it is only ever in batches that compute something for it.

    Feature caches: a request with one of diffusers' caches has it in its own copies of the models. Its calls run alone.

    concurrent: whether requests run interleaved
    batches: runs the calls, and decides which of them run together
    offload: moves the components of the pipeline, if only one of them is on the device at a time
    adapters: those that requests can select
    cache: of requests that choose none
    prompt_cache_bytes: how many bytes of text encoders' results to keep
    runs: the open requests by id
    """

    supports_step_execution: ClassVar[bool] = True

    def __init__(
        self,
        pipe: Any,
        defaults: ServingDefaults | None = None,
        concurrent: bool = True,
        batches: ProvenBatches | None = None,
        cache: CacheSettings = NO_CACHE,
        offload: ComponentOffload | None = None,
        prompt_cache_bytes: int = 0,
    ) -> None:
        pipe.set_progress_bar_config(disable=True)
        self._pipe = pipe
        self._concurrent = concurrent
        self._arguments = CallArguments(pipe, defaults or ServingDefaults())
        self.card = self._arguments.card(pipe, mode="step")
        self.batches = batches or ProvenBatches()
        self._cache = cache
        self._offload = offload
        self._prompts = PromptCache(prompt_cache_bytes)
        self.runs: dict[str, Run] = {}
        self._copies = PipelineCopies(pipe)
        self.adapters = AdapterStore(pipe)
        self._needs_exact_bits = any(map(magnifies_rounding, vars(pipe).values()))
        self._equality, self._scores = TensorEquality(), SpeculationScores()
        self._preview_count, self._skipped_calls = 0, 0
        self._preview_seconds = 0.0
        if cache.is_inside_model:
            self._require_usable(cache)

    def prepare_encode(self, state: StepState) -> None:
        params, previews, cache = state.params, None, self._cache_of(state.params)
        if isinstance(params, Mapping):
            kwargs, seed, embeddings, adapters = dict(params), None, dict[str, np.ndarray](), None
        else:
            kwargs, seed, embeddings = self._arguments.build(params), params.seed, params.embeddings
            adapters = self._select(params)
            if params.preview_every:
                shorter = msgspec.structs.replace(params, steps=self._arguments.fewest_steps(params))
                previews = Previews(params.preview_every, functools.partial(self._start_preview, shorter))
        is_exact = not isinstance(params, Mapping) and params.exact
        runs_apart = is_exact or cache.is_inside_model
        context = RequestContext(state.request_id, seed, self._needs_exact_bits or runs_apart, adapters)
        context.asks_for_exact_bits = runs_apart
        copy_scheduler = functools.partial(copy_for_request, state=state, is_shared=self._concurrent)
        caches = None
        if self._copies.runs_whole:
            if cache.is_inside_model:
                raise RequestError("invalid", "cache: the model was loaded with a cache of its own: leave cache out")
            pipe = self._copies.create_whole(copy_scheduler)
        else:
            pipe = self._copies.create(context, copy_scheduler)
            caches = FeatureCaches(pipe, cache, state) if cache.is_inside_model else None
        run = Run(
            greenlet(lambda: self._call(pipe, kwargs, embeddings)),
            context,
            Speculation(self._equality, self._scores),
            self._skipping_of(params),
            previews,
            caches,
        )
        self.runs[state.request_id] = run
        self._resume(state, run)
        if run.pending is not None and run.pending.answer:
            self._advance(state, run, run.pending.answer[0], is_computed=False)

    def denoise_step(self, states: Sequence[StepState]) -> list[Any]:
        began = time.perf_counter()
        runs = [self.runs[state.request_id] for state in states]
        pending = [run.pending for run in runs if run.pending is not None]
        assert len(pending) == len(states), "every state waits for a call"
        calls, keys = [one.call for one in pending], [one.prompt_key for one in pending]
        if None in keys:
            results = self._run_calls(calls, [one.speculated for one in pending])
        else:
            results = self._prompts.run(calls, keys, self.batches)
        for run in runs:
            if run.held is not None and run.previews is not None:
                run.previews.seconds += (time.perf_counter() - began) / len(states)
        return results

    def step_scheduler(self, state: StepState, prediction: Any) -> None:
        run = self.runs[state.request_id]
        if run.previews is not None and run.held is not None:
            self._advance_preview(state, run, run.previews, prediction)
            return
        self._advance(state, run, prediction)
        if run.previews is not None and state.in_loop and not state.is_done and run.previews.are_due(state):
            self._advance_preview(state, run, run.previews)

    def post_decode(self, state: StepState) -> Any:
        return self._result(state, self.runs[state.request_id].output)

    def close(self, state: StepState) -> None:
        run = self.runs.pop(state.request_id, None)
        if run is None:
            return
        if run.previews is not None:
            self._preview_seconds += run.previews.seconds
            run.previews.close()
        if not run.greenlet.dead:
            with run.context.active():
                run.greenlet.throw()
        run.context.close()
        if run.feature_caches is not None:
            run.feature_caches.close()
        if run.skipping is not None:
            self._skipped_calls += run.skipping.skipped

    @property
    def proofs(self) -> int:
        return self.batches.proofs

    def stats(self) -> dict[str, float]:
        previews = {"previews": self._preview_count, "preview_seconds": round(self._preview_seconds, 3)}
        speculation = {"calls_foreseen": self._scores.confirmed, "calls_mistaken": self._scores.mistaken}
        moves = {"component_moves": self._offload.moves} if self._offload else {}
        return {
            **self.batches.stats(),
            **speculation,
            "calls_skipped": self._skipped_calls,
            **self._prompts.stats(),
            **previews,
            **moves,
        }

    @property
    def _speculates(self) -> bool:
        """Whether a step's first call runs together with the calls that will probably follow."""
        units = self.batches.units
        return len(self.runs) * units > 1 and len(self.runs) <= MAX_SPECULATING_REQUESTS * units

    def _call(self, pipe: Any, kwargs: dict[str, Any], embeddings: Mapping[str, np.ndarray]) -> Any:
        """Call the request's copy of the pipeline; this runs in the request's greenlet."""
        if STRUCTURE in embeddings:
            assert self._arguments.denoiser is not None
            parameter = next(self._arguments.denoiser.parameters())
            vars(pipe)["encode_prompt"] = replay_encode_prompt(embeddings, parameter.device, parameter.dtype)
        return pipe(**kwargs)

    def _select(self, params: GenerationParams) -> Selection:
        """The adapters of a request. Raises RequestError for one that is not loaded."""
        return self.adapters.select(params.loras)

    def _require_usable(self, cache: CacheSettings) -> None:
        """Raises RequestError if requests with this cache would be rejected."""
        pipe = self._copies.create(RequestContext(""), copy.copy)
        FeatureCaches(pipe, cache, StepState("", {})).close()

    def _cache_of(self, params: GenerationParams | Mapping[str, Any]) -> CacheSettings:
        cache = None if isinstance(params, Mapping) else params.cache
        return self._cache if cache is None else cache

    def _skipping_of(self, params: GenerationParams | Mapping[str, Any]) -> Skipping | None:
        cache = self._cache_of(params)
        return Skipping(cache) if cache.mode == "skip" else None

    def _result(self, state: StepState, output: Any) -> Any:
        """The request's result, made from what the pipeline's call returned."""
        if isinstance(state.params, Mapping):
            return output
        return unfinished_result(output, state.step, self.card.sample_rate)

    def _run_calls(self, calls: Sequence[Call], speculated: Sequence[Sequence[Call]]) -> list[Any]:
        """Run the calls together with the speculative calls of each.

        Returns the result of each call, as `SpeculatedResults` if it has speculative calls. If the speculative calls
        fail, draw random numbers or write to their arguments, the calls run again without them.
        """
        if not speculated[0]:
            return self.batches.run(calls)
        rounds, count = [calls, *zip(*speculated, strict=True)], len(calls)
        random_states = [call.context.random_state for call in calls]
        try:
            outcomes = self.batches.compute([call for one_round in rounds for call in one_round])
            is_random = not torch.equal(random_states[0], calls[0].context.random_state)
            if not is_random and not any(outcome.changes for outcome in outcomes[count:]):
                results = [outcome.result for outcome in outcomes]
                return [
                    SpeculatedResults(call.accept(outcomes[i]), results[i + count :: count])
                    for i, call in enumerate(calls)
                ]
            hindrance = "they draw from the random generator" if is_random else "they write to their arguments"
        except Exception as error:  # one of the calls fails, and raises this again below; or there are too many calls
            hindrance = str(error) if is_out_of_memory(error) else ""
        if hindrance:
            log.info("calls of %s are foreseen no more: %s", calls[0].model, hindrance)
            self._scores.disable(self.batches.key_of(calls[0]))
        for call, random_state in zip(calls, random_states, strict=True):
            call.context.random_state = random_state
        return self.batches.run(calls)

    def _advance(self, state: StepState, run: Run, prediction: Any, is_computed: bool = True) -> None:
        """Resume with the result of the pending call, and with speculated results while the pipeline's calls match."""
        assert run.pending is not None
        result = prediction
        if isinstance(prediction, SpeculatedResults):
            result = prediction.result
            run.speculation.expect_calls(run.pending.key, run.pending.speculated, prediction.speculated)
        has_result = True
        while has_result and run.pending is not None:
            if run.previews is not None:
                run.previews.remember(run.pending.call, result)
            if run.skipping is not None and is_computed:
                run.skipping.add_computed(run.pending.call, run.pending.key, run.pending.index_in_step, result)
            self._resume(state, run, result)
            call, key = (run.pending.call, run.pending.key) if run.pending else (None, None)
            has_result, result = run.speculation.take_result(call, key)
            is_computed = has_result
            if run.pending is not None and run.pending.answer and not has_result:
                has_result, result = True, run.pending.answer[0]

    def _resume(self, state: StepState, run: Run, *result: Any) -> None:
        """Run the pipeline's own code up to its next model call, or to its end."""
        run.pending = None
        with run.context.active():
            value = run.greenlet.switch(*result)
        if run.greenlet.dead:
            state.key, run.output = None, value
        else:
            self._set_pending(state, run, value)

    def _set_pending(self, state: StepState, run: Run, call: Call) -> None:
        """Make `call` the next one of the request, with its speculative calls."""
        state.in_loop = call.phase == DENOISE
        key = self.batches.key_of(call)
        index = run.speculation.record_call(call, key, state.step)
        prompt_key = self._prompts.key_of(call)
        answer = self._prompts.find(prompt_key, call.context.needs_exact_bits or len(self.runs) == 1)
        if run.skipping is not None:
            answer = answer or run.skipping.answer(call, key, index, state)
        can_speculate = state.in_loop and index == 0 and self._speculates and not answer
        speculated = run.speculation.predict_calls(call, key) if can_speculate else []
        run.pending = Pending(call, key, index, speculated, answer, prompt_key)
        state.key = run.pending.batch_key
        state.component = self._component_of(call)

    def _component_of(self, call: Call) -> str | None:
        return self._offload.component_of(call.model) if self._offload else None

    def _advance_preview(self, state: StepState, run: Run, previews: Previews, *result: Any) -> None:
        """Start a preview, or continue it with the result of its call. Hold the request's own call until it is done."""
        call = previews.advance(state.request_id, *result)
        if call is not None:
            run.held = run.held or run.pending
            self._set_pending(state, run, call)
            return
        if previews.images is not None:
            self._preview_count += 1
            state.preview = previews.images
        if run.held is not None:
            run.pending, run.held = run.held, None
            state.key, state.in_loop = run.pending.batch_key, True
            state.component = self._component_of(run.pending.call)

    def _start_preview(
        self, params: GenerationParams, request_id: str, copy_timestep_scheduler: Callable[[Any], Any]
    ) -> PreviewRun:
        context = RequestContext(request_id, params.seed, adapters=self._select(params))
        pipe, kwargs = self._copies.create(context, copy_timestep_scheduler), self._arguments.build(params)
        return PreviewRun(greenlet(lambda: self._call(pipe, kwargs, params.embeddings)), context)
