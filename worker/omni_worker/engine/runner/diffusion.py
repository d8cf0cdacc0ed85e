"""The runner of a diffusion stage: keeps the state of its requests and steps them through the pipeline.

A failed batch runs again one request at a time, so that only the culprit fails. A batch that does not fit into memory
runs again in halves.
"""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from omni_worker.device.out_of_memory import free_failed_work, is_out_of_memory
from omni_worker.device.timing import TimedCall, call_timer
from omni_worker.engine.runner.interface import Runner
from omni_worker.engine.scheduler import RequestOutput, RunnerOutput, SchedulerOutput, SchedulerRequest
from omni_worker.errors import LoadError, RequestError
from omni_worker.pipelines.adapter_store import AdapterStore
from omni_worker.pipelines.compilation import compilations
from omni_worker.pipelines.protocol import StepState, SupportsStepExecution
from omni_worker.pipelines.request_mode import RequestModePipeline
from omni_worker.requests import GenerationParams

log = logging.getLogger(__name__)


class DiffusionRunner(Runner):
    """A runner of a pipeline whose LoRA adapters change while it runs. A pipeline with a step protocol of its own has
    none.
    """

    rpc_methods = (*Runner.rpc_methods, "read_lora", "add_lora", "remove_lora")

    def __init__(self, pipeline: SupportsStepExecution | RequestModePipeline) -> None:
        self._adapters: AdapterStore | None = getattr(pipeline, "adapters", None)

    def end_warm_up(self) -> None:
        compilations.end_warm_up()

    def read_lora(self, name: str, file: str) -> None:
        """Start to read an adapter's file, in another thread. Raises LoadError if the pipeline takes no adapters."""
        if self._adapters is None:
            raise LoadError(f"LoRA {name!r}: the pipeline has steps of its own, and takes no LoRA adapters")
        self._adapters.start_reading(name, Path(file))

    def add_lora(self, name: str, scale: float, component: str | None = None) -> bool:
        """Add the adapter that was read. Returns False if it is not read yet. Raises LoadError if it does not fit."""
        assert self._adapters is not None, "read_lora comes first"
        return self._adapters.finish(name, scale, component)

    def remove_lora(self, name: str) -> bool:
        """Remove an adapter. Returns False if a request still uses it."""
        if self._uses_lora(name):
            return False
        if self._adapters is not None:
            self._adapters.unload(name)
        return True

    @abstractmethod
    def _uses_lora(self, name: str) -> bool:
        """Whether a request that runs has selected the adapter."""


class StepRunner(DiffusionRunner):
    """Runs a step pipeline. Every payload is a GenerationParams, every result a GenerationResult or Unfinished."""

    def __init__(self, pipeline: SupportsStepExecution) -> None:
        super().__init__(pipeline)
        self._pipeline = pipeline
        self._states: dict[str, StepState] = {}
        self._step_id = 0
        self._timed: TimedCall | None = None
        self._out_of_memory = False
        self._timer = call_timer()

    def execute(self, output: SchedulerOutput) -> RunnerOutput:
        torch.set_grad_enabled(False)
        for id in output.finished:
            self._drop(id)
        prepared = [self._prepare(request) for request in output.new]
        self._step_id, self._timed, self._out_of_memory = output.step_id, None, False
        advanced = self._advance([self._states[id] for id in output.cached]) if output.cached else []
        return RunnerOutput(output.step_id, (*prepared, *advanced), self._timed, self._out_of_memory)

    def stats(self) -> dict[str, Any]:
        return {"states": len(self._states), **self._pipeline.stats(), **compilations.stats()}

    def close(self) -> None:
        for id in list(self._states):
            self._drop(id)

    def _uses_lora(self, name: str) -> bool:
        requests = (state.params for state in self._states.values() if isinstance(state.params, GenerationParams))
        return any(choice.name == name for params in requests for choice in params.loras)

    def _prepare(self, request: SchedulerRequest) -> RequestOutput:
        state = self._states[request.id] = StepState(request.id, request.payload)
        try:
            self._pipeline.prepare_encode(state)
        except ValueError as error:  # diffusers raises it for invalid arguments
            return self._failed(state, RequestError("invalid", str(error)))
        except Exception as error:
            return self._failed(state, error)
        return self._outcome(state)

    def _advance(self, states: Sequence[StepState], is_whole_batch: bool = True) -> list[RequestOutput]:
        proofs = self._pipeline.proofs
        self._timer.start()
        failure: Exception | None = None
        try:
            predictions = self._pipeline.denoise_step(states)
        except Exception as error:
            failure = error
        if failure is not None:
            return self._after_failure(states, failure)
        is_typical = is_whole_batch and self._pipeline.proofs == proofs
        self._timed = self._timer.stop(self._step_id, is_typical)
        return [self._resume(state, answer) for state, answer in zip(states, predictions, strict=True)]

    def _after_failure(self, states: Sequence[StepState], error: Exception) -> list[RequestOutput]:
        """Run a failed batch again in parts. Nothing of the failed attempt is in memory any more."""
        if len(states) == 1:
            return [self._failed(states[0], error)]
        no_memory = is_out_of_memory(error)
        size = len(states) // 2 if no_memory else 1
        log.warning("a batch of %d failed and is run again in parts of %d: %s", len(states), size, error)
        free_failed_work(error)
        parts = [states[start : start + size] for start in range(0, len(states), size)]
        outputs = [output for part in parts for output in self._advance(part, is_whole_batch=False)]
        self._timed, self._out_of_memory = None, self._out_of_memory or no_memory
        return outputs

    def _resume(self, state: StepState, prediction: Any) -> RequestOutput:
        if prediction is None:
            return self._failed(state, RequestError("aborted", "the pipeline was interrupted"))
        try:
            self._pipeline.step_scheduler(state, prediction)
        except Exception as error:
            return self._failed(state, error)
        return self._outcome(state)

    def _outcome(self, state: StepState) -> RequestOutput:
        if not state.is_done:
            preview, state.preview = state.preview, None
            return RequestOutput(
                state.request_id,
                state.key,
                state.in_loop,
                state.step,
                state.total_steps,
                partial=preview,
                component=state.component,
            )
        try:
            result = self._pipeline.post_decode(state)
        except Exception as error:
            return self._failed(state, error)
        self._drop(state.request_id)
        return RequestOutput(state.request_id, step=state.step, total_steps=state.total_steps, result=result)

    def _failed(self, state: StepState, error: Exception) -> RequestOutput:
        self._drop(state.request_id)
        if is_out_of_memory(error):  # the error travels on, and what it holds must not
            free_failed_work(error)
        return RequestOutput(state.request_id, step=state.step, error=error)

    def _drop(self, id: str) -> None:
        if (state := self._states.pop(id, None)) is not None:
            self._pipeline.close(state)


class RequestRunner(DiffusionRunner):
    """Runs each request from start to end in one call of the pipeline."""

    def __init__(self, pipeline: RequestModePipeline) -> None:
        super().__init__(pipeline)
        self._pipeline = pipeline
        self._completed = 0

    def execute(self, output: SchedulerOutput) -> RunnerOutput:
        return RunnerOutput(output.step_id, tuple(self._run(request) for request in output.new))

    def stats(self) -> dict[str, Any]:
        calls = {"batched_calls": 0, "single_calls": self._completed, "keys_batched": 0, "keys_alone": 0}
        return {"states": 0, **calls, **compilations.stats()}

    def close(self) -> None:
        pass

    def _uses_lora(self, name: str) -> bool:
        return False  # between two calls, no request runs

    def _run(self, request: SchedulerRequest) -> RequestOutput:
        try:
            result = self._pipeline.generate(request.payload)
        except ValueError as error:
            return RequestOutput(request.id, error=RequestError("invalid", str(error)))
        except Exception as error:
            failure = error
        else:
            self._completed += 1
            return RequestOutput(request.id, result=result)
        if is_out_of_memory(failure):
            free_failed_work(failure)
        return RequestOutput(request.id, error=failure)
