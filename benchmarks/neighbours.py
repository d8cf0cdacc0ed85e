"""What a request costs its neighbours: its large result, its long prompt, its new size, and what it leaves behind.

Where the old behaviour can be had, it is the baseline of the same run: results finished on the engine's thread, and a
key-value cache whose rows are all as long as the longest.

    python -m benchmarks.neighbours [--quick]
"""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from benchmarks import common, systems
from benchmarks.autoregressive import SHARED, SMALL, Numbers
from diffusers import QwenImageTransformer2DModel
from msgspec.structs import replace
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from omni_worker.engine.engine import Engine
from omni_worker.engine.executor import UniProcExecutor
from omni_worker.engine.finishing import Finishing
from omni_worker.engine.runner import Runner
from omni_worker.engine.runner.autoregressive import AutoregressiveRunner
from omni_worker.engine.scheduler import (
    Finished,
    RequestOutput,
    RunnerOutput,
    SchedulerOutput,
    SchedulerRequest,
    StepScheduler,
)
from omni_worker.language import cache
from omni_worker.language.loading import wrap
from omni_worker.pipelines.arguments.results import UnfinishedResult
from omni_worker.requests import GenerationParams, GenerationResult, SamplingParams

STEP_SECONDS = 0.01
RESULTS = {
    "an image of 1024x1024": (1, 1024, 1024, 3),
    "a video of 25 frames of 1280x720": (1, 25, 720, 1280, 3),
}
SHORT_TEXTS, SHORT_TOKENS, LONG_PROMPT, LONG_TOKENS = 31, 60, 1000, 300
CACHE_TOKENS = 4096
IMAGES, IMAGE_STEPS, CALLS_PER_STEP = 4, 4, 2


class SteppingRunner(Runner):
    """A request runs until it is aborted, in steps that take STEP_SECONDS and no processor time, as on a GPU. One with
    an UnfinishedResult as its payload ends at once with that. `steps` has the time of each step."""

    def __init__(self) -> None:
        self.steps: list[float] = []

    def execute(self, output: SchedulerOutput) -> RunnerOutput:
        time.sleep(STEP_SECONDS)
        self.steps.append(time.perf_counter())
        ended = [one for one in output.new if one.payload is not None]
        results = tuple(RequestOutput(one.id, result=one.payload) for one in ended)
        ids = {*(one.id for one in output.new), *output.cached} - {one.id for one in ended}
        return RunnerOutput(output.step_id, (*results, *(RequestOutput(id, "step") for id in sorted(ids))))

    def stats(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        self.steps.clear()


def longest_wait(shape: tuple[int, ...]) -> float:
    """The longest time between two steps of a neighbour, in seconds, while a result of this shape is finished."""
    images = np.random.default_rng(0).random(shape, np.float32)
    ended: dict[str, Finished] = {}
    runner = SteppingRunner()

    def collect(event: Any) -> None:
        if isinstance(event, Finished):
            ended[event.id] = event

    engine = Engine(StepScheduler(2), UniProcExecutor(runner), collect)
    engine.start()
    engine.add(SchedulerRequest("neighbour", None))
    _wait_for(lambda: len(runner.steps) > 5)
    engine.add(SchedulerRequest("large", UnfinishedResult(images)))
    _wait_for(lambda: "large" in ended)
    count = len(runner.steps)
    _wait_for(lambda: len(runner.steps) > count + 5)
    times = list(runner.steps)
    engine.abort("neighbour")
    engine.stop()
    assert isinstance(ended["large"].result, GenerationResult)
    return float(np.diff(times).max())


def _wait_for(check: Callable[[], bool]) -> None:
    while not check():
        time.sleep(STEP_SECONDS / 10)


def finishing(shape: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """Finishing in threads, and on the engine's thread as before; the longest wait of a neighbour, in seconds."""
    found: dict[str, list[float]] = {"before": [], "now": []}
    for _ in range(rounds):
        with patch.object(Finishing, "start", lambda self: None):
            found["before"].append(longest_wait(shape))
        found["now"].append(longest_wait(shape))
    return {name: common.spread(values) for name, values in found.items()}


class RectangularFit:
    """As the cache was: every row is as long as the longest."""

    def __init__(self) -> None:
        self._longest = cache.SMALLEST

    def capacity(self, length: int) -> int:
        """The capacity of the row of a text of `length` tokens."""
        return self._longest

    def regions(self, lengths: Sequence[int]) -> dict[int, cache.Region]:
        """One region."""
        self._longest = 1 << (max(lengths) - 1).bit_length()
        return {self._longest: cache.Region(self._longest, 0, len(lengths))}


def rows_per_call(with_long: bool, short: int) -> float:
    """How many of the `short` texts are in a call of the model, in the mean, until the last of them ends."""
    model = wrap(
        LlamaForCausalLM(LlamaConfig(**{**SHARED, **SMALL, "max_position_embeddings": 2048})),
        Numbers(),
    )
    model.slots.cache.max_tokens = CACHE_TOKENS
    ended: set[str] = set()
    engine = Engine(
        StepScheduler(short + 1),
        UniProcExecutor(AutoregressiveRunner(model)),
        lambda event: ended.add(event.id) if isinstance(event, Finished) else None,
    )
    sizes: list[int] = []
    run = model.slots.run

    def count(rows: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        sizes.append(sum(row.id != "long" for row in rows))
        return run(rows, *args, **kwargs)

    model.slots.run = count  # type: ignore[method-assign]
    if with_long:
        engine.add(_text("long", LONG_PROMPT, LONG_TOKENS))
    for number in range(short):
        engine.add(_text(str(number), 8, SHORT_TOKENS))
    while len(ended - {"long"}) < short:
        engine.step()
    return sum(sizes) / len(sizes)


def _text(id: str, prompt: int, tokens: int) -> SchedulerRequest:
    sampling = SamplingParams(max_tokens=tokens, temperature=0.0)
    return SchedulerRequest(id, GenerationParams(prompt=" ".join(["7"] * prompt), sampling=sampling))


def long_prompt(short: int) -> dict[str, Any]:
    """Rows per call of short texts, alone and next to a long prompt, with both caches."""
    found = {}
    for name, fits in (("before", (RectangularFit(),)), ("now", cache.FITS)):
        with patch.object(cache, "FITS", fits):
            found[name] = {"alone": rows_per_call(False, short), "next to it": rows_per_call(True, short)}
    return found


def counted_forwards() -> list[int]:
    """The batch sizes of the painter's forwards from now on, on models that are loaded from now on."""
    forward, sizes = QwenImageTransformer2DModel.forward, list[int]()

    def count(self: Any, *args: Any, **kwargs: Any) -> Any:
        sizes.append(len(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]))
        return forward(self, *args, **kwargs)

    QwenImageTransformer2DModel.forward = count
    return sizes


def new_size(model: systems.Model, sizes: list[int], side: int) -> dict[str, dict[str, int]]:
    """The rows and forwards of IMAGES requests of a size that is new, the same again, and what they need at least."""

    def run(count: int, length: int) -> None:
        params = GenerationParams(prompt="a red three", steps=IMAGE_STEPS, guidance=2.0, width=length, height=length)
        systems.run_engine(systems.step_mode(), model, [replace(params, seed=seed) for seed in range(count)])

    for count in (2, 4, 8):
        run(count, 32)  # as a replica warms up
    found = {}
    for name in ("new", "again"):
        sizes.clear()
        run(IMAGES, side)
        found[name] = {"rows": sum(sizes), "forwards": len(sizes)}
    return {**found, "needed": {"rows": IMAGES * IMAGE_STEPS * CALLS_PER_STEP}}


def left_behind(model: systems.Model, count: int, side: int) -> dict[str, float]:
    """The memory of tensors, in MB, that ended requests leave until the garbage collector runs, and after it."""
    ended: list[str] = []
    runner, scheduler = systems.step_mode()(model)
    engine = Engine(
        scheduler,
        UniProcExecutor(runner),
        lambda event: ended.append(event.id) if isinstance(event, Finished) else None,
    )

    def run(name: str) -> None:
        ended.clear()
        for number in range(count):
            engine.add(systems.scheduled(f"{name}-{number}", systems.request(number, side, 2)))
        while len(ended) < count:
            engine.step()
        engine.step()  # tells the runner about the last request that ended

    run("first")  # proves the batches
    gc.collect()
    gc.disable()
    try:
        before = _tensor_bytes()
        for number in range(3):
            run(str(number))
        kept = _tensor_bytes()
        gc.collect()
        return {"requests": 3 * count, "kept": (kept - before) / 1e6, "collected": (_tensor_bytes() - before) / 1e6}
    finally:
        gc.enable()
        runner.close()


def _tensor_bytes() -> int:
    """The memory of all tensors that live, each storage once."""
    tensors = (one for one in gc.get_objects() if type(one) in (torch.Tensor, torch.nn.Parameter))
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}
    return sum(storages.values())


def tables(figures: Mapping[str, Any]) -> None:
    """Print the figures."""
    table = Table("finished meanwhile", "before, ms", "now, ms", title="the longest pause of a neighbour's steps")
    for name, cell in figures["finishing"].items():
        milliseconds = [{key: value * 1e3 for key, value in cell[system].items()} for system in ("before", "now")]
        table.add_row(name, *(common.text(one, "", 0) for one in milliseconds))
    common.console.print(table)
    table = Table("cache", "alone", "next to a long prompt", title="short texts in a call of the model")
    for name, cell in figures["long_prompt"].items():
        table.add_row(name, *(f"{value:.1f}" for value in cell.values()))
    common.console.print(table)
    common.console.print(f"a new size, rows and forwards: {figures['new_size']}")
    common.console.print(f"tensors that ended requests leave, MB: {figures['left_behind']}")


def main() -> None:
    """Measure all four, print them, and write the figures."""
    args = common.parser(__doc__, "neighbours").parse_args()
    before = common.machine()
    shapes = {"an image of 256x256": (1, 256, 256, 3)} if args.quick else RESULTS
    waits = {name: finishing(shape, 1 if args.quick else 5) for name, shape in shapes.items()}  # on any core
    common.start(args)
    sizes = counted_forwards()
    model = systems.Model()
    figures = {
        "finishing": waits,
        "long_prompt": long_prompt(4 if args.quick else SHORT_TEXTS),
        "new_size": new_size(model, sizes, 48),
        "left_behind": left_behind(model, *((2, 32) if args.quick else (8, 128))),
    }
    tables(figures)
    if not args.quick:
        common.write(args.output, before, figures)


if __name__ == "__main__":
    main()
