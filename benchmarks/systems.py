"""What is compared: the built-in model served by plain diffusers, whole requests, the peer's policy, and our own.

All of them share one set of weights, one process and one torch thread.
"""

import queue
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import msgspec
import numpy as np
import transformers
from benchmarks.peer import PeerScheduler

from omni_worker.config import model_source
from omni_worker.config.flags import AUTO_MAX_NUM_SEQS
from omni_worker.engine.engine import Engine
from omni_worker.engine.executor import UniProcExecutor
from omni_worker.engine.runner import Runner
from omni_worker.engine.runner.diffusion import RequestRunner, StepRunner
from omni_worker.engine.scheduler import (
    POLICIES,
    Finished,
    RequestScheduler,
    RequestStatus,
    SchedulerEvent,
    SchedulerInterface,
    SchedulerRequest,
    StepScheduler,
)
from omni_worker.pipelines.acceleration import shorten_single_frames
from omni_worker.pipelines.interception.stepping import InterceptedPipeline
from omni_worker.pipelines.loading import wrap_pipeline
from omni_worker.pipelines.request_mode import RequestModePipeline
from omni_worker.requests import GenerationParams, GenerationResult

SOURCE = model_source.parse("builtin://digits")
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS = ("red", "green", "blue", "yellow")
BACKGROUNDS = ("black", "grey")
STEPS = ((4, 0.5), (20, 0.35), (50, 0.15))

DIFFUSERS, REQUEST_MODE, PEER = "diffusers", "request mode", "peer's policy"


class Model:
    """The built-in model: as diffusers has it (`plain`, and stepped for the peer), and as a replica serves it (whole,
    and stepped), where the autoencoder takes the short way for single frames.

    `around` may change a pipe before anything else knows it.
    """

    def __init__(self, around: Callable[[Any], None] | None = None) -> None:
        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()
        self.pipe, served = (
            diffusers.DiffusionPipeline.from_pretrained(SOURCE.location, local_files_only=True) for _ in range(2)
        )
        shorten_single_frames(served.vae)
        if around is not None:
            around(self.pipe)
            around(served)
        self.plain = _wrapped(self.pipe, RequestModePipeline)
        self.whole = _wrapped(served, RequestModePipeline)
        self.stepped = _wrapped(served, InterceptedPipeline)
        self.stepped_plainly = _wrapped(self.pipe, InterceptedPipeline)


def _wrapped(pipe: Any, kind: type[Any]) -> Any:
    wrapped = wrap_pipeline(
        pipe, SOURCE, step_execution=kind is InterceptedPipeline, concurrent=kind is InterceptedPipeline
    )
    assert isinstance(wrapped, kind)
    return wrapped


def request(number: int, side: int, steps: int) -> GenerationParams:
    """One request; the number is its seed, and chooses the prompt, which has one of three lengths."""
    word, colour = WORDS[number % 10], COLOURS[number % 4]
    prompts = (word, f"a {colour} {word}", f"a {colour} {word} on {BACKGROUNDS[number % 2]} background")
    return GenerationParams(prompt=prompts[number % 3], seed=number, width=side, height=side, steps=steps)


def unguided(requests: Sequence[GenerationParams]) -> list[GenerationParams]:
    """The same requests without guidance: one call a step."""
    return [msgspec.structs.replace(one, guidance=1.0) for one in requests]


def mixed(count: int, sides: Sequence[int], steps: Sequence[tuple[int, float]] = STEPS) -> list[GenerationParams]:
    """`count` requests whose steps have the given shares exactly, and whose sizes alternate, in one fixed order."""
    drawn = [number for number, share in steps for _ in range(round(share * count))]
    drawn = (drawn + [steps[0][0]] * count)[:count]
    random.Random(0).shuffle(drawn)
    return [request(i, sides[i % len(sides)], drawn[i]) for i in range(count)]


def scheduled(id: str, params: GenerationParams, deadline: float | None = None) -> SchedulerRequest:
    """A request as a replica hands it to its engine."""
    return SchedulerRequest(id, params, deadline=deadline, steps=params.steps or 0)


def peer_key(request: SchedulerRequest) -> tuple[Any, ...]:
    """What of the peer's `StepBatchSamplingParamsKey` can differ here: size and guidance, not steps."""
    params = request.payload
    return params.width, params.height, params.guidance, params.negative_prompt


def request_mode(model: Model) -> tuple[Runner, SchedulerInterface]:
    """The engine, one whole request after another."""
    return RequestRunner(model.whole), RequestScheduler()


def peer_mode(model: Model) -> tuple[Runner, SchedulerInterface]:
    """The engine with the peer's policy."""
    return StepRunner(model.stepped_plainly), PeerScheduler(peer_key)


def step_mode(policy: str = "fifo", most: int | None = None) -> Callable[[Model], tuple[Runner, SchedulerInterface]]:
    """The engine with one of our policies, and at most `most` requests; None as it is served: 32, batch sizes found."""

    def make(model: Model) -> tuple[Runner, SchedulerInterface]:
        scheduler = StepScheduler(most or AUTO_MAX_NUM_SEQS, POLICIES[policy](), find_batch_size=most is None)
        return StepRunner(model.stepped), scheduler

    return make


def run_diffusers(model: Model, params: Sequence[GenerationParams]) -> list[np.ndarray]:
    """Plain diffusers: its own call, one request after another."""
    return [picture(model.plain.generate(one).finish()) for one in params]


def run_engine(
    make: Callable[[Model], tuple[Runner, SchedulerInterface]], model: Model, params: Sequence[GenerationParams]
) -> list[np.ndarray]:
    """All requests at once into an engine that this thread drives. Raises what one of them failed with."""
    ended: dict[str, Finished] = {}

    def collect(event: SchedulerEvent) -> None:
        if isinstance(event, Finished):
            ended[event.id] = event

    runner, scheduler = make(model)
    engine = Engine(scheduler, UniProcExecutor(runner), collect)
    for i, one in enumerate(params):
        engine.add(scheduled(str(i), one))
    while len(ended) < len(params):
        engine.step()
    runner.close()
    for event in ended.values():
        if event.error is not None:
            raise event.error
    return [picture(ended[str(i)].result) for i in range(len(params))]


def picture(result: object) -> np.ndarray:
    """The one picture of a result."""
    assert isinstance(result, GenerationResult)
    return result.images[0]


def levels(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> int:
    """The largest difference between pictures, of 255."""
    return max(int(np.abs(a.astype(int) - b.astype(int)).max()) for a, b in zip(one, other, strict=True))


class DiffusersServer:
    """Plain diffusers behind a queue: what most people run. It has an engine's `start`, `add` and `stop`."""

    def __init__(self, model: Model, on_event: Callable[[SchedulerEvent], None]) -> None:
        self._model = model
        self._on_event = on_event
        self._queue: queue.SimpleQueue[SchedulerRequest | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="diffusers", daemon=True)

    def start(self) -> None:
        """Start its thread."""
        self._thread.start()

    def add(self, request: SchedulerRequest) -> None:
        """Queue a request."""
        self._queue.put(request)

    def stop(self) -> None:
        """End after what is queued."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (taken := self._queue.get()) is not None:
            result = self._model.plain.generate(taken.payload).finish()
            self._on_event(Finished(taken.id, RequestStatus.COMPLETED, result))
