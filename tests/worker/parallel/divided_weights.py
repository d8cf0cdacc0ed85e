"""What each rank of test_tensor_parallel runs: tiny pipelines with all weights, and with a part of the weights."""

import tempfile
import warnings
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from omni_settings.parallelism import ModelParallelism
from omni_worker.config import model_source
from omni_worker.parallel.ranks import Ranks
from omni_worker.pipelines.batching.batches import ProvenBatches
from omni_worker.pipelines.batching.parallel_models import ParallelModels
from omni_worker.pipelines.interception.stepping import InterceptedPipeline
from omni_worker.pipelines.loading import load
from omni_worker.pipelines.tensor_parallel import load_divided
from tests.worker.parallel.divided_specimens import finished, most_levels, params, run
from tests.worker.pipelines.survey import build, difference, specimen
from tests.worker.pipelines.zoo import dit_flux2, dit_qwen3, flux, qwen_image
from tests.worker.pipelines.zoo.check import arrays
from tests.worker.pipelines.zoo.specimen import Specimen

SPECIMENS = {
    "FluxPipeline": flux,
    "Flux2Pipeline": dit_flux2,
    "QwenImagePipeline-lengths": qwen_image,
    "QwenImage21Pipeline": dit_qwen3,
}
"""For each class of denoisers with a plan for weights a pipeline, with the module of the zoo that has it."""
REQUESTS = 2
TENSOR = ModelParallelism(tensor=2)


def scenarios(ranks: Ranks) -> dict[str, Any]:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    warnings.simplefilter("ignore")
    found: dict[str, Any] = {name: of_specimen(ranks, specimen(SPECIMENS[name], name)) for name in SPECIMENS}
    whole, divided = (
        load(model_source.parse("builtin://digits"), None, ranks=of, parallelism=ModelParallelism(tensor=of.size))
        for of in (Ranks(), ranks)
    )
    requests = [params(0), params(1)]
    found["loaded"] = most_levels(
        *([finished(result) for result in run(one.pipeline, requests)] for one in (whole, divided))
    )
    pipeline: Any = divided.pipeline
    found["adapters"] = pipeline.adapters.why_none, pipeline.card.takes_loras
    return found


def of_specimen(ranks: Ranks, one: Specimen) -> dict[str, Any]:
    """By how many levels outputs differ from diffusers' own, alone and together.

    part: of the values of the divided matrices, which part this rank has
    matrices: how many matrices are divided
    """
    reference, pipe, expected = build(one, "float32"), build(one, "float32"), []
    with tempfile.TemporaryDirectory() as folder:
        pipe.transformer.save_pretrained(folder)
        kinds = {"transformer": type(pipe.transformer)}
        parts = load_divided(kinds, TENSOR, ranks, "cpu", lambda _, kind, **more: kind.from_pretrained(folder, **more))
    pipe.register_modules(**parts)
    pipeline = InterceptedPipeline(pipe, batches=ProvenBatches(ranks, parallel=ParallelModels(2, {"transformer": {}})))
    for i in range(REQUESTS):
        torch.manual_seed(1)
        expected.append(arrays(reference(**one.arguments(i))))
    found: dict[str, Any] = {"kind": type(reference.transformer).__name__}
    for kind, indices in {"alone": [0], "together": range(REQUESTS)}.items():
        torch.manual_seed(1)
        results = run(pipeline, [one.arguments(i) for i in indices])
        errors = [result for result in results if isinstance(result, Exception)]
        found[kind] = repr(errors[0]) if errors else max(difference(arrays(results[i]), expected[i]) for i in indices)
    weights = [one for one in pipe.transformer.parameters() if isinstance(one, DTensor) and one.dim() > 1]
    found["part"] = sum(one.to_local().numel() for one in weights) / sum(one.numel() for one in weights)
    found["matrices"] = len(weights)
    return found
