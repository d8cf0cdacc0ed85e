"""Skipped calls: the answers continue a smooth path, and a request's decisions are its own, whatever runs beside it."""

import gc
import weakref

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from omni_worker.config import model_source
from omni_worker.engine.engine import Engine
from omni_worker.engine.executor import UniProcExecutor
from omni_worker.engine.library import generate
from omni_worker.engine.runner.diffusion import StepRunner
from omni_worker.engine.runner.interface import Unfinished
from omni_worker.engine.scheduler import RequestProgress, RequestStatus, SchedulerRequest, StepScheduler
from omni_worker.models.digits_reader import read
from omni_worker.pipelines.components import DECODE
from omni_worker.pipelines.interception import previews
from omni_worker.pipelines.interception.skipping import Skipping
from omni_worker.pipelines.interception.stepping import InterceptedPipeline
from omni_worker.pipelines.loading import load
from omni_worker.pipelines.protocol import StepState
from omni_worker.requests import NO_CACHE, CacheSettings, GenerationParams
from tests.worker.pipelines.batching.calls import call, good, key
from tests.worker.pipelines.survey import difference, specimen
from tests.worker.pipelines.tiny import build
from tests.worker.pipelines.zoo import controlnet, flux, qwen_image, stable_diffusion, stable_diffusion_xl, wan
from tests.worker.pipelines.zoo.check import arrays

SKIP = CacheSettings()
ANY_ERROR = CacheSettings(tolerance=1e9, max_consecutive=2)


def walk(paths, cache=SKIP, steps=12, **kwargs):
    """Run a step's calls, one for each path, over all steps. Returns for each step which calls were skipped, and the
    answers that these got."""
    skipping, state = Skipping(cache), StepState("0", {}, total_steps=steps)
    skipped, answers = [], []
    for step in range(steps):
        state.step = step
        skipped.append([])
        for index, path in enumerate(paths):
            one = call(good, 0, **kwargs)
            answer = skipping.answer(one, key(one), index, state)
            skipped[-1].append(bool(answer))
            if answer:
                answers.append((step, answer[0]))
            else:
                skipping.add_computed(one, key(one), index, {"sample": torch.full((1, 3), path(step))})
    return skipped, answers


def test_a_straight_path_is_followed_and_its_ends_are_computed():
    skipped, answers = walk([lambda step: 10.0 + step], CacheSettings(max_consecutive=3))
    assert [all(step) for step in skipped] == [step in (3, 4, 5, 7, 8, 9) for step in range(12)]
    assert all(torch.allclose(answer["sample"], torch.tensor(10.0 + step)) for step, answer in answers)


def test_a_path_is_left_where_it_bends_more_than_the_tolerance():
    bend = lambda step: 10.0 + (step - 5) ** 2 if step > 5 else 10.0  # noqa: E731
    loose, _ = walk([bend], CacheSettings(tolerance=10.0))
    strict, _ = walk([bend], CacheSettings(tolerance=0.01))
    assert sum(map(sum, strict)) < sum(map(sum, loose))
    assert not any(map(any, strict[7:])), "it bends until the end"


def test_the_calls_of_a_step_are_skipped_together():
    skipped, _ = walk([lambda step: 10.0 + step, lambda step: (-2.0) ** step])
    assert not any(map(any, skipped)), "the second one is not smooth"
    skipped, _ = walk([lambda step: 10.0 + step, lambda step: 20.0 - step])
    assert all(len(set(step)) == 1 for step in skipped)
    assert any(map(all, skipped))


@pytest.mark.parametrize(
    "kwargs",
    [{"generator": torch.Generator()}, {"memory": object()}, {"phase": DECODE}],
    ids=["random", "object", "decode"],
)
def test_calls_that_may_do_more_than_answer_are_computed(kwargs):
    assert not any(map(any, walk([lambda step: 10.0 + step], **kwargs)[0]))


def test_what_the_pipeline_writes_into_a_result_changes_no_later_answer():
    skipping, state = Skipping(SKIP), StepState("0", {}, total_steps=9)
    for state.step in range(6):
        one = call(good, 0)
        answer = skipping.answer(one, key(one), 0, state)
        result = answer[0] if answer else (torch.full((1, 3), 10.0 + state.step, dtype=torch.bfloat16),)
        if not answer:
            skipping.add_computed(one, key(one), 0, result)
        assert result[0].dtype is torch.bfloat16
        assert result[0].tolist() == [[10.0 + state.step] * 3]
        result[0].fill_(-1.0)
    assert skipping.skipped == 3


def finished(end):
    assert end.status is RequestStatus.COMPLETED, end.error
    return (end.result.finish() if isinstance(end.result, Unfinished) else end.result).images[0].astype(int)


def images(pipeline, requests):
    before = pipeline.stats()["calls_skipped"]
    found = [finished(end) for end in generate(pipeline, requests)]
    return found, pipeline.stats()["calls_skipped"] - before


@pytest.fixture(scope="module")
def digits():
    return load(model_source.parse("builtin://digits"), step_execution=True).pipeline


def digit(i, cache=SKIP, steps=20, **kwargs):
    word = ("zero", "one", "two", "three", "four", "five", "six")[i % 7]
    return GenerationParams(prompt=f"a red {word} on black background", seed=i, steps=steps, cache=cache, **kwargs)


def test_an_image_with_skipped_calls_is_nearly_that_without(digits):
    for i in range(3):
        (cached,), skipped = images(digits, [digit(i)])
        (plain,), none = images(digits, [digit(i, None)])
        assert (skipped >= 2 * 8, none) == (True, 0), "it is off by default"
        assert 10 * np.log10(255**2 / np.square(cached - plain).mean()) > 40
        assert read(cached.astype(np.uint8)).digit == i


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    mix=st.lists(
        st.tuples(
            st.sampled_from([None, SKIP, CacheSettings(tolerance=0.3), CacheSettings(max_consecutive=1)]),
            st.integers(4, 16),
            st.sampled_from([1.0, 3.0]),
        ),
        min_size=2,
        max_size=6,
    )
)
def test_beside_any_others_a_cached_request_gives_the_image_that_it_gives_alone(digits, mix):
    requests = [digit(i, cache, steps, guidance=guidance) for i, (cache, steps, guidance) in enumerate(mix)]
    alone = [images(digits, [request]) for request in requests]
    together, skipped = images(digits, requests)
    assert skipped == sum(count for _, count in alone)
    assert max(np.abs(image - own[0]).max() for image, (own, _) in zip(together, alone, strict=True)) <= 2


def test_the_same_request_again_gives_the_same_bits(digits):
    assert np.array_equal(images(digits, [digit(4)])[0], images(digits, [digit(4)])[0])


def test_a_stage_may_skip_by_default_and_a_request_may_choose_otherwise():
    pipeline = InterceptedPipeline(build(specimen(qwen_image, "QwenImagePipeline")), cache=ANY_ERROR)
    request = GenerationParams(prompt="a red one", steps=8, width=32, height=32, guidance=1.0)
    assert images(pipeline, [request])[1] == 3
    assert images(pipeline, [replace(request, cache=NO_CACHE)])[1] == 0


def test_previews_show_requests_that_skip(digits, monkeypatch):
    monkeypatch.setattr(previews, "MAX_TIME_SHARE", 1.0)
    events = []
    request = digit(3, preview_every=1)
    (end,) = generate(digits, [request], on_event=events.append)
    shown = [event.step for event in events if isinstance(event, RequestProgress) and event.partial is not None]
    assert len(shown) > 3
    assert np.array_equal(finished(end), images(digits, [replace(request, preview_every=0)])[0][0])


CLASSES = {
    "StableDiffusionPipeline": stable_diffusion,
    "StableDiffusionXLPipeline": stable_diffusion_xl,
    "StableDiffusionControlNetPipeline": controlnet,
    "FluxPipeline": flux,
    "QwenImagePipeline": qwen_image,
    "WanPipeline": wan,
}


@pytest.mark.parametrize("kind", CLASSES)
def test_any_pipeline_skips_in_batches_as_it_does_alone(kind):
    one = specimen(CLASSES[kind], kind)
    pipeline = InterceptedPipeline(build(one), cache=ANY_ERROR)
    pipeline._skipping_of = lambda params: Skipping(ANY_ERROR)  # the specimens' requests are arguments

    def request(i):
        return {**one.arguments(i), "num_inference_steps": 8 + i}

    alone = [arrays(generate(pipeline, [request(i)])[0].result) for i in range(3)]
    skipped = pipeline.stats()["calls_skipped"]
    assert skipped > 0
    together = [arrays(end.result) for end in generate(pipeline, [request(i) for i in range(3)])]
    assert pipeline.stats()["calls_skipped"] == 2 * skipped
    assert all(difference(image, own) <= 2 for image, own in zip(together, alone, strict=True))


@torch.no_grad()
def test_an_aborted_request_frees_what_it_kept_and_the_others_continue(digits):
    steps, ends = {}, {}

    def collect(event):
        if isinstance(event, RequestProgress):
            steps[event.id] = event.step
        else:
            ends[event.id] = event

    engine = Engine(StepScheduler(8), UniProcExecutor(StepRunner(digits)), collect)
    requests = [digit(i, ANY_ERROR if i == 1 else SKIP) for i in range(3)]
    for i, request in enumerate(requests):
        engine.add(SchedulerRequest(str(i), request))
    while steps.get("1", 0) < 6:
        engine.step()
    kept = digits.runs["1"].skipping._values.values()
    tensors = [weakref.ref(result[0]) for values in kept for result in values.results]
    assert len(tensors) == 4, "two of each branch"
    del kept
    engine.abort("1")
    while len(ends) < 3:
        engine.step()
    engine.step()  # the runner drops it
    gc.collect()
    assert ends["1"].status is RequestStatus.ABORTED
    assert all(reference() is None for reference in tensors)
    assert not digits.runs
    for i in (0, 2):
        assert np.abs(finished(ends[str(i)]) - images(digits, [requests[i]])[0][0]).max() <= 2
