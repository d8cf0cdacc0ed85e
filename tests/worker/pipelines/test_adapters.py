"""Requests with different LoRA adapters run together, and each gives the image that diffusers makes with its own."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from omni_worker.engine.library import generate
from omni_worker.engine.runner.diffusion import StepRunner
from omni_worker.engine.runner.interface import Unfinished
from omni_worker.engine.scheduler import RequestStatus, SchedulerOutput, SchedulerRequest
from omni_worker.errors import LoadError, RequestError
from omni_worker.pipelines.arguments.results import unfinished_result
from omni_worker.pipelines.interception.stepping import InterceptedPipeline
from omni_worker.pipelines.protocol import StepState
from omni_worker.requests import GenerationParams, LoraChoice
from tests.worker.pipelines.adapters import write_adapter
from tests.worker.pipelines.survey import specimen
from tests.worker.pipelines.tiny import build
from tests.worker.pipelines.zoo import flux, qwen_image, stable_diffusion, stable_diffusion_xl, wan

CLASSES = {
    "StableDiffusionPipeline": (stable_diffusion, 64),
    "StableDiffusionXLPipeline": (stable_diffusion_xl, 64),
    "FluxPipeline": (flux, 16),
    "QwenImagePipeline": (qwen_image, 32),
    "WanPipeline": (wan, 16),
}
MIXED = (
    (LoraChoice("a"),),
    (LoraChoice("b", 0.5),),
    (),
    (LoraChoice("a", 0.25), LoraChoice("b")),
    (LoraChoice("c", -1.0),),
)


def write_adapters(one, folder):
    """Random adapters a, b and c of several ranks. Those of b and c change the text encoder too, where that can be."""
    has_text = "text_encoder_lora_layers" in type(build(one)).save_lora_weights.__annotations__
    files = {name: folder / f"{name}.safetensors" for name in "abc"}
    for number, file in enumerate(files.values()):
        write_adapter(build(one), file, seed=10 + number, rank=2 + number, text_encoder=has_text and number > 0)
    return files


def params(kind, loras, i, steps=3):
    size = CLASSES[kind][1]
    frames = 5 if kind == "WanPipeline" else None
    return GenerationParams(
        prompt=f"a red {i}", steps=steps, width=size, height=size, frames=frames, seed=i, guidance=3.0, loras=loras
    )


def of_diffusers(kind, files, requests):
    """What diffusers itself makes of each request, with its adapters."""
    pipe = build(specimen(CLASSES[kind][0], kind))
    arguments = InterceptedPipeline(pipe)._arguments
    for name, file in files.items():
        pipe.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name=name)
    found = []
    for request in requests:
        if request.loras:
            pipe.enable_lora()
            scales = [1.0 if one.scale is None else one.scale for one in request.loras]
            pipe.set_adapters([one.name for one in request.loras], scales)
        elif files:
            pipe.disable_lora()
        with torch.no_grad():
            output = pipe(**arguments.build(request))
        found.append(finished(unfinished_result(output)))
    return found


def loaded(one, files):
    pipeline = InterceptedPipeline(build(one))
    for name, file in files.items():
        pipeline.adapters.load(name, file)
    return pipeline


def levels(one, other):
    return np.abs(one - other).max()


def images(pipeline, requests):
    ended = generate(pipeline, requests)
    assert [end.status for end in ended] == [RequestStatus.COMPLETED] * len(ended), [end.error for end in ended]
    return [finished(end.result) for end in ended]


def finished(result):
    return (result.finish() if isinstance(result, Unfinished) else result).images[0].astype(int)


@pytest.mark.parametrize("kind", CLASSES)
def test_alone_an_image_is_that_of_diffusers_and_together_it_stays_so(kind, tmp_path):
    one = specimen(CLASSES[kind][0], kind)
    files = write_adapters(one, tmp_path)
    requests = [params(kind, loras, i) for i, loras in enumerate(MIXED)]
    expected = of_diffusers(kind, files, requests)
    (without,) = of_diffusers(kind, {}, [requests[2]])
    assert np.array_equal(expected[2], without), "an adapter that is not selected changes nothing"
    assert all(levels(image, without) > 5 for i, image in enumerate(expected) if i != 2), "they do change the image"
    pipeline = loaded(one, files)
    for request, image in zip(requests, expected, strict=True):
        assert np.array_equal(images(pipeline, [request])[0], image)
    for _ in range(2):
        before = pipeline.batches.batched_calls
        together = images(pipeline, requests)
        assert max(map(levels, together, expected)) <= 1
        assert pipeline.batches.batched_calls > before, "they share batches"
    assert pipeline.batches.stats()["keys_alone"] == 0


def test_each_transformer_of_wan_has_its_own_adapters_in_any_mix(tmp_path):
    one = specimen(wan, "WanPipeline-two")
    files = write_adapters(specimen(wan, "WanPipeline"), tmp_path)
    into = {"a": None, "b": "transformer_2", "c": "transformer_2"}
    requests = [params("WanPipeline", tuple(map(LoraChoice, names)), 0, steps=6) for names in ("", "a", "b", "ab", "c")]
    pipeline = InterceptedPipeline(build(one))
    for name, file in files.items():
        pipeline.adapters.load(name, file, component=into[name])

    def of_diffusers(request):
        pipe = build(one)
        for choice in request.loras:
            second = {} if into[choice.name] is None else {"load_into_transformer_2": True}
            file = files[choice.name]
            pipe.load_lora_weights(str(tmp_path), weight_name=file.name, adapter_name=choice.name, **second)
        with torch.no_grad():
            return finished(unfinished_result(pipe(**pipeline._arguments.build(request))))

    expected = [of_diffusers(request) for request in requests]
    differences = [levels(image, other) for i, image in enumerate(expected) for other in expected[:i]]
    assert min(differences) > 2, "both transformers are adapted"
    for request, image in zip(requests, expected, strict=True):
        assert np.array_equal(images(pipeline, [request])[0], image)
    before = pipeline.batches.batched_calls
    assert max(map(levels, images(pipeline, requests), expected)) <= 1
    assert pipeline.batches.batched_calls > before, "they share batches"
    with pytest.raises(LoadError, match="component: the pipeline has no transformer_2; leave component out"):
        InterceptedPipeline(build(specimen(wan, "WanPipeline"))).adapters.load("b", files["b"], component=into["b"])


@pytest.fixture(scope="module")
def stable_diffusion_with_adapters(tmp_path_factory):
    one = specimen(stable_diffusion, "StableDiffusionPipeline")
    return loaded(one, write_adapters(one, tmp_path_factory.mktemp("adapters")))


SELECTIONS = st.lists(
    st.builds(LoraChoice, st.sampled_from("abc"), st.sampled_from([-1.0, 0.0, 0.5, 1.0, 1.5])),
    max_size=3,
    unique_by=lambda choice: choice.name,
).map(tuple)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(mix=st.lists(SELECTIONS, min_size=2, max_size=5))
def test_any_mix_gives_each_request_its_own_image(stable_diffusion_with_adapters, mix):
    requests = [params("StableDiffusionPipeline", loras, i, steps=2) for i, loras in enumerate(mix)]
    alone = [images(stable_diffusion_with_adapters, [request])[0] for request in requests]
    assert max(map(levels, images(stable_diffusion_with_adapters, requests), alone)) <= 1


def test_an_adapter_comes_and_goes_while_requests_run(tmp_path):
    kind = "QwenImagePipeline"
    one = specimen(qwen_image, kind)
    files = write_adapters(one, tmp_path)
    requests = [params(kind, (LoraChoice("a"),), 0), params(kind, (), 1), params(kind, (LoraChoice("b"),), 2)]
    expected = of_diffusers(kind, files, requests)
    pipeline = loaded(one, {"a": files["a"]})
    running = [StepState(str(i), request) for i, request in enumerate(requests[:2])]
    with torch.no_grad():
        for state in running:
            pipeline.prepare_encode(state)
            advance(pipeline, state)
        pipeline.adapters.start_reading("b", files["b"])
        while not pipeline.adapters.finish("b"):  # it is read in another thread
            assert not any(state.is_done for state in running)
        pipeline.prepare_encode(late := StepState("2", requests[2]))
        for state in (*running, late):
            while not state.is_done:
                advance(pipeline, state)
        for state, image in zip((*running, late), expected, strict=True):
            assert np.array_equal(finished(pipeline.post_decode(state)), image)
            pipeline.close(state)
    pipeline.adapters.unload("b")
    assert pipeline.adapters.names == ("a",)
    assert np.array_equal(images(pipeline, requests[:1])[0], expected[0])
    with pytest.raises(RequestError, match="no LoRA 'b'; there are: a"):
        pipeline.prepare_encode(StepState("3", requests[2]))


def test_a_file_that_does_not_fit_changes_nothing(tmp_path):
    one, other = specimen(qwen_image, "QwenImagePipeline"), specimen(flux, "FluxPipeline")
    (tmp_path / "other").mkdir()
    files, wrong = write_adapters(one, tmp_path), write_adapters(other, tmp_path / "other")["c"]
    pipeline = loaded(one, {"a": files["a"]})
    request = params("QwenImagePipeline", (LoraChoice("a"),), 0)
    before = images(pipeline, [request])[0]
    nonsense = tmp_path / "nonsense.safetensors"
    nonsense.write_bytes(b"nothing")
    replacing = tmp_path / "replacing.safetensors"
    save_file({**load_file(files["a"]), "transformer.norm_out.weight": torch.ones(2)}, replacing)
    for file in (wrong, nonsense, tmp_path / "missing.safetensors", replacing):
        with pytest.raises(LoadError, match="'x'"):
            pipeline.adapters.load("x", file)
        pipeline.adapters.start_reading("x", file)
        with pytest.raises(LoadError, match="'x'"):
            finish_reading(pipeline, "x")
    assert pipeline.adapters.names == ("a",)
    assert np.array_equal(images(pipeline, [request])[0], before)


def test_a_runner_removes_an_adapter_only_when_no_request_uses_it(tmp_path):
    one = specimen(qwen_image, "QwenImagePipeline")
    runner = StepRunner(loaded(one, {"a": write_adapters(one, tmp_path)["a"]}))
    request = SchedulerRequest("1", params("QwenImagePipeline", (LoraChoice("a"),), 0))
    runner.execute(SchedulerOutput(1, new=(request,)))
    assert not runner.call("remove_lora", ("a",))
    runner.execute(SchedulerOutput(2, finished=frozenset({"1"})))
    assert runner.call("remove_lora", ("a",))


def finish_reading(pipeline, name):
    while not pipeline.adapters.finish(name):
        pass


def advance(pipeline, state):
    pipeline.step_scheduler(state, pipeline.denoise_step([state])[0])
