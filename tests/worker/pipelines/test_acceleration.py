"""The short way of single frames, and compiled denoisers: the same results, by less work."""

import copy

import pytest
import torch
from diffusers import QwenImageTransformer2DModel

from omni_worker.engine.library import generate
from omni_worker.engine.scheduler import RequestStatus
from omni_worker.pipelines.acceleration import (
    CompiledDenoisers,
    compile_denoisers,
    compiled_graphs,
    shorten_single_frames,
)
from omni_worker.pipelines.batching.batches import ProvenBatches
from omni_worker.pipelines.interception.adapters import Adapters
from omni_worker.pipelines.interception.conversions import Conversions
from omni_worker.pipelines.interception.model_copies import ModelCopy
from omni_worker.pipelines.interception.stepping import InterceptedPipeline

from .survey import difference, specimen
from .zoo import qwen_image, wan
from .zoo.check import arrays

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("module", "name"), [(qwen_image, "QwenImagePipeline"), (wan, "WanPipeline")], ids=["Qwen-Image", "Wan"]
)
@torch.no_grad()
def test_single_frames_take_the_shorter_way_to_the_same_image(module, name):
    torch.manual_seed(0)
    vae = specimen(module, name).build().vae
    short = copy.deepcopy(vae)
    assert shorten_single_frames(short) > 4
    latents = torch.randn(2, vae.config.z_dim, 1, 8, 8)
    expected, got = vae.decode(latents).sample, short.decode(latents).sample
    assert (got - expected).abs().max() <= 2e-5 * max(1.0, float(expected.abs().max()))
    several = torch.randn(1, vae.config.z_dim, 3, 8, 8)
    again = copy.deepcopy(short)  # bound to its own weights
    for parameter in again.parameters():
        parameter.mul_(2.0)
    assert torch.allclose(vae.decode(several).sample, short.decode(several).sample, atol=2e-5)
    assert not torch.allclose(short.decode(latents).sample, again.decode(latents).sample)


def test_blocks_are_compiled_once_for_all_lengths_sizes_and_batches():
    one = specimen(qwen_image, "QwenImagePipeline")
    torch.manual_seed(0)
    pipe = one.build()
    words = ["a", "boat", "on", "the", "river", "at", "night", "under", "a", "bridge", "in", "the", "rain"]
    requests = [
        {**one.arguments(i), "prompt": " ".join(words[: i + 1]), "width": side, "height": side}
        for i in range(9)
        for side in (16, 32)
    ]
    with torch.no_grad():
        expected = [arrays(pipe(**{**request, "generator": torch.Generator().manual_seed(1)})) for request in requests]
    torch._dynamo.reset()
    before = compiled_graphs()
    assert compile_denoisers(pipe, backend="eager") == CompiledDenoisers(("transformer",), ())
    pipeline = InterceptedPipeline(pipe)
    seeded = [{**request, "generator": torch.Generator().manual_seed(1)} for request in requests]
    ended = [generate(pipeline, [request])[0] for request in seeded[:4]]
    seeded = [{**request, "generator": torch.Generator().manual_seed(1)} for request in requests]
    ended += generate(pipeline, seeded[4:])
    assert [end.status for end in ended] == [RequestStatus.COMPLETED] * len(requests)
    assert max(difference(arrays(end.result), own) for end, own in zip(ended, expected, strict=True)) <= 2
    assert 0 < compiled_graphs() - before <= 10, "and not one for each of 18 shapes and their batches"
    assert pipeline.stats()["compiled_graphs"] == compiled_graphs()


def test_a_request_that_changes_a_compiled_model_runs_its_own_blocks():
    pipe = specimen(qwen_image, "QwenImagePipeline").build()
    compile_denoisers(pipe, backend="eager")
    model = pipe.transformer
    assert model.transformer_blocks[0]._compiled_call_impl is not None
    copied = ModelCopy(model, Conversions(), Adapters(model))
    assert copied.of(model.transformer_blocks[0])._compiled_call_impl is None


def test_a_denoiser_that_is_compiled_whole_runs_in_few_batch_sizes(monkeypatch):
    monkeypatch.setattr(QwenImageTransformer2DModel, "_repeated_blocks", None)
    one = specimen(qwen_image, "QwenImagePipeline")
    torch.manual_seed(0)
    pipe = one.build()
    del pipe.transformer.transformer_blocks[1:]  # compiling takes most of the time
    with torch.no_grad():
        expected = [arrays(pipe(**one.arguments(i))) for i in range(3)]
    assert compile_denoisers(pipe, backend="eager") == CompiledDenoisers((), ("transformer",))
    sizes = []
    compiled = pipe.transformer.forward
    vars(pipe.transformer)["forward"] = lambda **kwargs: (
        sizes.append(len(kwargs["hidden_states"])) or compiled(**kwargs)
    )
    ended = generate(
        InterceptedPipeline(pipe, batches=ProvenBatches(buckets=(1, 2, 4, 8))), [one.arguments(i) for i in range(3)]
    )
    assert all(end.status is RequestStatus.COMPLETED for end in ended)
    assert max(difference(arrays(end.result), own) for end, own in zip(ended, expected, strict=True)) <= 2
    assert 4 in sizes
    assert set(sizes) <= {1, 2, 4, 8}
