"""Any diffusers pipeline as a step pipeline, by interception of its model calls.

Each request runs the pipeline's own, unmodified `__call__` in a greenlet, on a shallow copy of the pipeline: its models
are replaced by stand-ins, its timestep schedulers by the request's own. A stand-in is a shallow copy of the model (same
class, same weights, same attributes) some of whose methods are replaced: called, they suspend the greenlet and hand the
arguments to whoever drives it. To resume the greenlet with an answer is to continue the pipeline's own code. So outputs
equal diffusers' own, abort is an exception thrown in, and to wait is not to resume.
"""

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
from omni_worker.model_card import ServingDefaults
from omni_worker.pipelines.arguments.call_arguments import CallArguments
from omni_worker.pipelines.arguments.embeddings import STRUCTURE, playing_back
from omni_worker.pipelines.arguments.results import result_of
from omni_worker.pipelines.batching.batches import ProvenBatches
from omni_worker.pipelines.batching.calls import Call
from omni_worker.pipelines.batching.comparing import SameTensors
from omni_worker.pipelines.components import DENOISE, models
from omni_worker.pipelines.interception.pipeline_copies import Shells
from omni_worker.pipelines.interception.previews import Previews, Shadow
from omni_worker.pipelines.interception.speculation import Answers, Foresight, Record
from omni_worker.pipelines.interception.timestep_schedulers import magnifies_rounding, own_solver
from omni_worker.pipelines.protocol import StepState
from omni_worker.pipelines.request_context import ModelState, RequestContext
from omni_worker.requests import GenerationParams

log = logging.getLogger(__name__)
FEW = 4  # requests a process, up to which calls are foreseen
PENDING = ("call", "made_key", "foreseen")  # what is known of a pending call


class InterceptedPipeline:
    """A step pipeline around a loaded `diffusers.DiffusionPipeline`.

    A request's next call is foreseen where others are under way, but few; for many fill a batch without. One that is
    alone makes its calls one by one, for diffusers' own bits, unless there are other ranks to make them too.

    concurrent: whether requests run interleaved
    batches: runs their calls, and knows which may run together
    """

    supports_step_execution: ClassVar[bool] = True

    def __init__(
        self,
        pipe: Any,
        defaults: ServingDefaults | None = None,
        concurrent: bool = True,
        batches: ProvenBatches | None = None,
    ) -> None:
        pipe.set_progress_bar_config(disable=True)
        self._pipe = pipe
        self._concurrent = concurrent
        self._arguments = CallArguments(pipe, defaults or ServingDefaults())
        self.card = self._arguments.card(pipe, mode="step")
        self.batches = batches or ProvenBatches()
        self._model_state = ModelState(list(models(pipe).values()))
        self._shells = Shells(pipe)
        self._needs_every_bit = any(map(magnifies_rounding, vars(pipe).values()))
        self._live: set[str] = set()
        self._same, self._foreseen = SameTensors(), Record()
        self._previews = 0
        self._preview_seconds = 0.0

    def prepare_encode(self, state: StepState) -> None:
        params = state.params
        if isinstance(params, Mapping):
            kwargs, seed, embeddings = dict(params), None, dict[str, np.ndarray]()
        else:
            kwargs, seed, embeddings = self._arguments.build(params), params.seed, params.embeddings
            if params.preview_every:
                shorter = msgspec.structs.replace(params, steps=self._arguments.fewest_steps(params))
                state.extra["previews"] = Previews(params.preview_every, functools.partial(self._shadow, shorter))
        context = state.extra["context"] = RequestContext(
            state.request_id, self._model_state, seed, self._needs_every_bit
        )
        shell = self._shells.make(context, lambda solver: own_solver(solver, state, self._concurrent))
        state.extra["run"] = greenlet(lambda: self._call(shell, kwargs, embeddings))
        state.extra["foresight"] = Foresight(self._same, self._foreseen)
        self._live.add(state.request_id)
        self._resume(state)

    def denoise_step(self, states: Sequence[StepState]) -> list[Any]:
        began = time.perf_counter()
        answers = self._answers(
            [state.extra["call"] for state in states], [state.extra["foreseen"] for state in states]
        )
        for state in states:
            if "held" in state.extra:
                state.extra["previews"].seconds += (time.perf_counter() - began) / len(states)
        return answers

    def step_scheduler(self, state: StepState, prediction: Any) -> None:
        previews: Previews | None = state.extra.get("previews")
        if previews is not None and "held" in state.extra:
            self._show(state, previews, prediction)
        else:
            self._go_on(state, prediction, previews)
            if previews is not None and state.in_loop and not state.is_done and previews.are_due(state):
                self._show(state, previews)

    def post_decode(self, state: StepState) -> Any:
        output = state.extra["output"]
        return output if isinstance(state.params, Mapping) else result_of(output, state.step)

    def close(self, state: StepState) -> None:
        self._live.discard(state.request_id)
        run: greenlet | None = state.extra.get("run")
        context: RequestContext | None = state.extra.get("context")
        previews: Previews | None = state.extra.get("previews")
        state.extra.clear()
        if previews is not None:
            self._preview_seconds += previews.seconds
            previews.close()
        if run is not None and context is not None and not run.dead:
            with context.active():
                run.throw()

    @property
    def proofs(self) -> int:
        return self.batches.proofs

    def stats(self) -> dict[str, float]:
        seconds = {"previews": self._previews, "preview_seconds": round(self._preview_seconds, 3)}
        foreseen = {"calls_foreseen": self._foreseen.hits, "calls_mistaken": self._foreseen.misses}
        return {**self.batches.stats(), **foreseen, **seconds}

    @property
    def _foresees(self) -> bool:
        """Whether calls are made together with those that are foreseen after them."""
        return len(self._live) * self.batches.processes > 1 and len(self._live) <= FEW * self.batches.processes

    def _call(self, shell: Any, kwargs: dict[str, Any], embeddings: Mapping[str, np.ndarray]) -> Any:
        """The request's own run of the pipeline."""
        if STRUCTURE in embeddings:
            assert self._arguments.denoiser is not None
            parameter = next(self._arguments.denoiser.parameters())
            vars(shell)["encode_prompt"] = playing_back(embeddings, parameter.device, parameter.dtype)
        return shell(**kwargs)

    def _answers(self, calls: Sequence[Call], foreseen: Sequence[Sequence[Call]]) -> list[Any]:
        """The answer of each call, with those of the calls that were foreseen after it."""
        if not foreseen[0]:
            return self.batches.run(calls)
        turns, count = [calls, *zip(*foreseen, strict=True)], len(calls)
        before = [call.context.random_state for call in calls]
        try:
            answers = self.batches.run([call for turn in turns for call in turn])
            if torch.equal(before[0], calls[0].context.random_state):
                return [Answers(answers[i], answers[i + count :: count]) for i in range(count)]
            hindrance = "they draw from the random generator"
        except Exception as error:  # of one of the calls, which raises it again, or since they are too many
            hindrance = str(error) if is_out_of_memory(error) else ""
        if hindrance:
            log.info("calls of %s are foreseen no more: %s", calls[0].model, hindrance)
            self._foreseen.give_up(self.batches.key_of(calls[0]))
        for call, state in zip(calls, before, strict=True):
            call.context.random_state = state
        return self.batches.run(calls)

    def _go_on(self, state: StepState, prediction: Any, previews: Previews | None) -> None:
        """Take an answer, and those to the calls that come next where they come as they were foreseen."""
        foresight: Foresight = state.extra["foresight"]
        answer = prediction
        if isinstance(prediction, Answers):
            answer = prediction.first
            foresight.await_calls(state.extra["made_key"], state.extra["foreseen"], prediction.others)
        is_known = True
        while is_known:
            if previews is not None:
                previews.remember(state.extra["call"], answer)
            self._resume(state, answer)
            is_known, answer = foresight.answer_to(state.extra.get("call"), state.extra.get("made_key"))

    def _resume(self, state: StepState, *answer: Any) -> None:
        run: greenlet = state.extra["run"]
        state.extra.pop("call", None)
        with state.extra["context"].active():
            value = run.switch(*answer)
        if run.dead:
            state.key, state.extra["output"] = None, value
        else:
            self._pend(state, value)

    def _pend(self, state: StepState, call: Call) -> None:
        state.extra["call"] = call
        state.in_loop = call.phase == DENOISE
        foresight: Foresight = state.extra["foresight"]
        key = state.extra["made_key"] = self.batches.key_of(call)
        turn = foresight.made(call, key, state.step)
        foreseen = foresight.calls_after(call, key) if state.in_loop and turn == 0 and self._foresees else []
        state.extra["foreseen"] = foreseen
        state.key = key._replace(turn=turn, calls=1 + len(foreseen))

    def _show(self, state: StepState, previews: Previews, *answer: Any) -> None:
        """Go on with a preview: the request's own call is held until the picture is there."""
        call = previews.advance(state.request_id, *answer)
        if call is not None:
            state.extra.setdefault("held", {name: state.extra[name] for name in PENDING} | {"key": state.key})
            self._pend(state, call)
            return
        if previews.pictures is not None:
            self._previews += 1
            state.preview = previews.pictures
        if "held" in state.extra:
            held = state.extra.pop("held")
            state.key = held.pop("key")
            state.extra.update(held)
            state.in_loop = True

    def _shadow(self, params: GenerationParams, request_id: str, solver: Callable[[Any], Any]) -> Shadow:
        context = RequestContext(request_id, self._model_state, params.seed)
        shell, kwargs = self._shells.make(context, solver), self._arguments.build(params)
        return Shadow(greenlet(lambda: self._call(shell, kwargs, params.embeddings)), context)
