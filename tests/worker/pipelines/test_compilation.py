"""Compiled denoisers: the same results, few graphs for all shapes, and metrics of what torch compiles."""

import logging

import pytest
import torch
from diffusers import QwenImageTransformer2DModel

from omni_worker.engine.library import generate
from omni_worker.engine.runner.diffusion import StepRunner
from omni_worker.engine.scheduler import RequestStatus
from omni_worker.pipelines import compilation
from omni_worker.pipelines.batching.batches import ProvenBatches
from omni_worker.pipelines.batching.collators import LengthBuckets
from omni_worker.pipelines.compilation import CompiledDenoisers, compilations, compile_denoisers
from omni_worker.pipelines.interception.adapters import Adapters
from omni_worker.pipelines.interception.conversions import Conversions
from omni_worker.pipelines.interception.model_copies import ModelCopy
from omni_worker.pipelines.interception.stepping import InterceptedPipeline

from .survey import difference, specimen
from .zoo import audio, qwen_image
from .zoo.check import arrays

torch.set_num_threads(1)
WORDS = ["a", "boat", "on", "the", "river", "at", "night", "under", "a", "bridge", "in", "the", "rain"]


def test_blocks_are_compiled_once_for_all_lengths_sizes_and_batches():
    one = specimen(qwen_image, "QwenImagePipeline")
    torch.manual_seed(0)
    pipe = one.build()
    requests = [
        {**one.arguments(i), "prompt": " ".join(WORDS[: i + 1]), "width": side, "height": side}
        for i in range(9)
        for side in (16, 32)
    ]
    with torch.no_grad():
        expected = [arrays(pipe(**{**request, "generator": torch.Generator().manual_seed(1)})) for request in requests]
    torch._dynamo.reset()
    before = compilations.graphs
    assert compile_denoisers(pipe, backend="eager") == CompiledDenoisers(("transformer",), ())
    pipeline = InterceptedPipeline(pipe, batches=ProvenBatches(rounds_lengths=True))
    seeded = [{**request, "generator": torch.Generator().manual_seed(1)} for request in requests]
    ended = [generate(pipeline, [request])[0] for request in seeded[:4]]
    seeded = [{**request, "generator": torch.Generator().manual_seed(1)} for request in requests]
    ended += generate(pipeline, seeded[4:])
    assert [end.status for end in ended] == [RequestStatus.COMPLETED] * len(requests)
    assert max(difference(arrays(end.result), own) for end, own in zip(ended, expected, strict=True)) <= 2
    assert 0 < compilations.graphs - before <= 10, "and not one for each of 18 shapes and their batches"
    assert StepRunner(pipeline).stats()["compiled_graphs"] == compilations.graphs
    assert pipeline.stats()["text_buckets"] == 1, "they are padded to 16 positions"


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


@pytest.fixture
def whole(monkeypatch):
    """A pipeline whose denoiser is compiled whole, and the arguments of its requests."""
    monkeypatch.setattr(QwenImageTransformer2DModel, "_repeated_blocks", None)
    torch._dynamo.reset()
    one = specimen(qwen_image, "QwenImagePipeline")
    torch.manual_seed(0)
    pipe = one.build()
    del pipe.transformer.transformer_blocks[1:]
    return pipe, lambda i, **given: {**one.arguments(i), "num_inference_steps": 2, **given}


def test_a_new_prompt_length_needs_no_graph(whole):
    pipe, arguments = whole
    with torch.no_grad():
        expected = arrays(pipe(**arguments(0, prompt=" ".join(WORDS))))
    compile_denoisers(pipe, backend="eager")
    pipeline = InterceptedPipeline(pipe)
    generate(pipeline, [arguments(0, prompt="a boat")])
    before = compilations.graphs
    for count in (3, 5, 8, 9):
        generate(pipeline, [arguments(0, prompt=" ".join(WORDS[:count]))])
    (end,) = generate(pipeline, [arguments(0, prompt=" ".join(WORDS))])
    assert compilations.graphs == before > 0
    assert difference(arrays(end.result), expected) <= 2
    generate(pipeline, [arguments(0, prompt="a boat", width=48, height=48)])
    assert compilations.graphs > before, "a new image size does need one"


def test_lengths_in_any_argument_are_symbols():
    one = specimen(audio, "AudioLDM2Pipeline")
    torch.manual_seed(0)
    torch._dynamo.reset()
    pipe = one.build()
    compile_denoisers(pipe, backend="eager")
    pipeline = InterceptedPipeline(pipe)
    graphs = []
    for count in (2, 4, 9):
        (end,) = generate(pipeline, [{**one.arguments(0), "prompt": " ".join(WORDS[:count])}])
        assert end.error is None
        graphs.append(compilations.graphs)
    assert graphs[0] == graphs[1] == graphs[2]


def test_a_function_at_its_limit_is_reported_once_and_runs_on(whole, monkeypatch, caplog):
    pipe, arguments = whole
    monkeypatch.setattr(compilation, "MAX_GRAPHS", 1)
    monkeypatch.setattr(compilations, "full", set())
    monkeypatch.setattr(compilations, "models", set())
    with torch._dynamo.config.patch(recompile_limit=1), caplog.at_level(logging.WARNING):
        compile_denoisers(pipe, backend="eager")
        pipeline = InterceptedPipeline(pipe)
        ended = [generate(pipeline, [arguments(0, width=side, height=side)])[0] for side in (16, 32, 48, 64)]
    assert [end.status for end in ended] == [RequestStatus.COMPLETED] * 4
    assert StepRunner(pipeline).stats()["compile_limits_reached"] == 1
    (said,) = [record.getMessage() for record in caplog.records if "limit" in record.getMessage()]
    assert "a function of transformer, 'wrapper' (" in said, "the decorator of the model's forward"
    assert "its limit of 1 compiled graphs" in said
    assert "hidden_states" in said
    assert "load.warmUp.sizes, or remove load.compile (--compile)" in said


def test_graphs_after_the_warm_up_are_counted_apart(whole, monkeypatch, caplog):
    pipe, arguments = whole
    monkeypatch.setattr(compilations, "_graphs_at_serving", None)
    compile_denoisers(pipe, backend="eager")
    runner = StepRunner(InterceptedPipeline(pipe))
    pipeline = runner._pipeline
    generate(pipeline, [arguments(0)])
    assert (runner.stats()["late_graphs"], runner.stats()["late_compile_seconds"]) == (0, 0)
    runner.end_warm_up()
    generate(pipeline, [arguments(1)])
    assert runner.stats()["late_graphs"] == 0
    assert "requests waited" not in caplog.text
    generate(pipeline, [arguments(0, width=48, height=48)])
    assert runner.stats()["late_graphs"] > 0
    assert 0 < runner.stats()["late_compile_seconds"] < 60
    assert "list their sizes and batch sizes in load.warmUp" in caplog.text


def test_padded_lengths_are_few():
    buckets = LengthBuckets()
    lengths = [buckets.of(length) for length in range(1, 1025)]
    assert all(bucket >= length for length, bucket in enumerate(lengths, 1))
    assert lengths == sorted(lengths)
    assert [buckets.of(length) for length in (1, 16, 17, 64, 65, 512)] == [16, 16, 32, 64, 128, 512]
    assert len(buckets.used) == 19
