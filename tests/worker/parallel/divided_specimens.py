"""What each rank of test_context_parallel runs: tiny pipelines as diffusers alone runs them, and with divided calls."""

import importlib
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models import attention_dispatch
from torch import Tensor

from omni_settings.load import LoadSettings
from omni_settings.parallelism import ModelParallelism
from omni_worker.config import model_source
from omni_worker.engine.runner.diffusion import StepRunner
from omni_worker.engine.runner.interface import Unfinished
from omni_worker.engine.scheduler import SchedulerOutput, SchedulerRequest
from omni_worker.parallel.ranks import Ranks
from omni_worker.pipelines.acceleration import set_attention
from omni_worker.pipelines.batching.batches import ProvenBatches
from omni_worker.pipelines.context_parallel import divide_sequences
from omni_worker.pipelines.interception.stepping import InterceptedPipeline
from omni_worker.pipelines.loading import load
from omni_worker.requests import GenerationParams, LoraChoice
from tests.worker.pipelines import zoo
from tests.worker.pipelines.adapters import write_adapter
from tests.worker.pipelines.survey import LEVELS, build, difference, specimen
from tests.worker.pipelines.zoo.check import arrays
from tests.worker.pipelines.zoo.specimen import Specimen

SPECIMENS = {
    "FluxPipeline": "flux",
    "Flux2Pipeline": "dit_flux2",
    "QwenImageEditPipeline": "qwen_image",
    "QwenImagePipeline-lengths": "qwen_image",
    "WanPipeline-two": "wan",
    "ChronoEditPipeline": "wan",
    "LTXImageToVideoPipeline": "video_dit",
    "LTX2ImageToVideoPipeline": "video_ltx2",
    "HeliosPipeline": "video_more",
}
"""For each class of denoisers with a plan a pipeline, with the module of the zoo that has it."""
RING = ("FluxPipeline", "QwenImageEditPipeline", "WanPipeline-two")
"""Those that run in a ring, too: text with and before the image, and sequences that are not even."""
REQUESTS = 2
INT8 = {"quantization": {"transformer": {"backend": "torchao", "type": "Int8WeightOnlyConfig"}}}


def scenarios(ranks: Ranks) -> dict[str, Any]:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    warnings.simplefilter("ignore")
    found: dict[str, Any] = {name: of_specimen(ranks, named(name)) for name in SPECIMENS}
    found["ring"] = in_a_ring(ranks)
    found["adapters"] = of_adapters(ranks, named("FluxPipeline"))
    found["int8"] = of_quantized(ranks)
    found["short"] = of_short_prompt(ranks, named("FluxPipeline"))
    return found


def named(name: str) -> Specimen:
    return specimen(importlib.import_module(f"{zoo.__name__}.{SPECIMENS[name]}"), name)


def divided(ranks: Ranks, pipe: Any, parallelism: ModelParallelism | None = None) -> InterceptedPipeline:
    """The pipeline, whose sequences all ranks divide."""
    parallel = divide_sequences(pipe, parallelism or ModelParallelism(ulysses=ranks.size), ranks, "cpu")
    return InterceptedPipeline(pipe, batches=ProvenBatches(ranks, parallel=parallel))


def in_a_ring(ranks: Ranks) -> dict[str, Any]:
    """The same of a ring, with a kernel for CPUs in place of torch's flash attention, which needs a GPU."""
    calls = []

    def flash(query: Tensor, key: Tensor, value: Tensor, *_: Any, scale: float | None = None, **__: Any) -> Any:
        calls.append(1)
        scores = query @ key.mT * (scale or query.shape[-1] ** -0.5)
        nothing = torch.empty(0)
        return scores.softmax(-1) @ value, scores.logsumexp(-1), nothing, nothing, 0, 0, nothing, nothing, nothing

    library = torch.library.Library("aten", "IMPL")
    library.impl("_scaled_dot_product_flash_attention", flash, "CPU")
    found = {}
    for name in RING:
        calls.clear()
        found[name] = of_specimen(ranks, named(name), ModelParallelism(ring=ranks.size), "_native_flash")
        found[name]["kernel_calls"] = len(calls)
    library._destroy()
    attention_dispatch._AttentionBackendRegistry.set_active_backend(attention_dispatch.AttentionBackendName.NATIVE)
    return found


def of_specimen(
    ranks: Ranks, one: Specimen, parallelism: ModelParallelism | None = None, attention: str | None = None
) -> dict[str, Any]:
    """The class of its denoisers, and by how many levels outputs differ from diffusers' own: alone, and together.

    exchanges: how often the ranks exchanged parts of sequences for heads
    """
    reference, expected = build(one, "float32"), []
    for i in range(REQUESTS):
        torch.manual_seed(1)
        expected.append(arrays(reference(**one.arguments(i))))
    pipe = build(one, "float32")
    if attention is not None:
        set_attention(pipe, attention)
    pipeline = divided(ranks, pipe, parallelism)
    found: dict[str, Any] = {"kind": type(pipeline._pipe.transformer).__name__}
    with CountedExchanges() as counted:
        for kind, indices in {"alone": [0], "together": range(REQUESTS)}.items():
            torch.manual_seed(1)
            results = run(pipeline, [one.arguments(i) for i in indices])
            found[kind] = max(difference(arrays(results[i]), expected[i]) for i in indices)
    return {**found, "exchanges": counted.number}


def of_adapters(ranks: Ranks, one: Specimen) -> float:
    """By how many levels requests with different adapters, in one batch, differ from those of an undivided model."""
    requests = [params(i, loras) for i, loras in enumerate([(LoraChoice("a"),), (), (LoraChoice("b", 0.5),)])]
    images = []
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.safetensors" for name in "ab"}
        for seed, file in enumerate(files.values()):
            write_adapter(build(one, "float32"), file, seed)
        for pipeline in (InterceptedPipeline(build(one, "float32")), divided(ranks, build(one, "float32"))):
            for name, file in files.items():
                pipeline.adapters.load(name, file)
            images.append([finished(result) for result in run(pipeline, requests)])
    return most_levels(*images)


def of_quantized(ranks: Ranks) -> float:
    """The same of the built-in model with quantized weights, loaded as a replica loads it."""
    settings, source = LoadSettings.model_validate(INT8), model_source.parse("builtin://digits")
    alone = load(source, None, settings=settings).pipeline
    together = load(
        source, None, settings=settings, ranks=ranks, parallelism=ModelParallelism(ulysses=ranks.size)
    ).pipeline
    return most_levels(
        *([finished(result) for result in run(one, [params(0), params(1)])] for one in (alone, together))
    )


def of_short_prompt(ranks: Ranks, one: Specimen) -> tuple[str, str, str, float]:
    """The error of a request whose text has a single position, and what the next request gives."""
    pipeline = divided(ranks, build(one, "float32"))
    arguments = one.arguments(0)
    embeds = {"prompt_embeds": torch.ones(1, 1, 32), "pooled_prompt_embeds": torch.ones(1, 32)}
    del arguments["prompt"]
    (error,) = run(pipeline, [{**arguments, **embeds}])
    reference = build(one, "float32")
    torch.manual_seed(1)
    expected = arrays(reference(**one.arguments(1)))
    torch.manual_seed(1)
    (result,) = run(pipeline, [one.arguments(1)])
    return type(error).__name__, getattr(error, "kind", ""), str(error), difference(arrays(result), expected)


def params(i: int, loras: tuple[LoraChoice, ...] = ()) -> GenerationParams:
    return GenerationParams(
        prompt=f"a red {('two', 'six', 'ten')[i]}", steps=3, width=32, height=32, seed=i, guidance=3.0, loras=loras
    )


def run(pipeline: Any, requests: Sequence[Any]) -> list[Any]:
    """The results of requests that run together, in the same steps on all ranks; of a failed one, its error."""
    runner, results, waiting = StepRunner(pipeline), dict[str, Any](), list[tuple[str, Any]]()
    new = tuple(SchedulerRequest(str(i), request) for i, request in enumerate(requests))
    step = 0
    while len(results) < len(requests):
        ready = tuple(id for id, key in waiting if key == waiting[0][1])
        output = runner.execute(SchedulerOutput(step, new, ready))
        waiting = [one for one in waiting if one[0] not in ready]
        for one in output.outputs:
            if one.error is None and one.result is None:
                waiting.append((one.id, one.key))
            else:
                results[one.id] = one.error or one.result
        new, step = (), step + 1
    runner.close()
    return [results[str(i)] for i in range(len(requests))]


def finished(result: Any) -> np.ndarray:
    assert isinstance(result, Unfinished), result
    image: np.ndarray = result.finish().images[0]
    return image


def most_levels(images: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """The largest difference between images of 0 to LEVELS."""
    assert np.iinfo(images[0].dtype).max == LEVELS
    return max(
        float(np.abs(one.astype(int) - other.astype(int)).max()) for one, other in zip(images, others, strict=True)
    )


class CountedExchanges:
    """Counts the exchanges of sequences for heads, in a `with` block."""

    def __init__(self) -> None:
        self.number = 0
        self._real = attention_dispatch.funcol.all_to_all_single

    def __enter__(self) -> "CountedExchanges":
        attention_dispatch.funcol.all_to_all_single = self._count
        return self

    def __exit__(self, *error: object) -> None:
        attention_dispatch.funcol.all_to_all_single = self._real

    def _count(self, *args: Any) -> Any:
        self.number += 1
        return self._real(*args)
