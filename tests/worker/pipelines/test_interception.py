"""Intercepted pipelines give diffusers' own pictures: to the bit alone, to rounding among others."""

import numpy as np
import pytest
import torch

from omni_worker.engine.engine import Engine
from omni_worker.engine.executor import UniProcExecutor
from omni_worker.engine.runner.diffusion import StepRunner
from omni_worker.engine.scheduler import SchedulerRequest, Status, StepScheduler
from omni_worker.errors import RequestError
from omni_worker.pipelines.arguments import CallArguments
from omni_worker.pipelines.interception import InterceptedPipeline
from omni_worker.pipelines.loading import LoadError, wrap
from omni_worker.pipelines.protocol import StepState, SupportsStepExecution, can_step, to_uint8
from omni_worker.requests import GenerationParams, ServingDefaults

from .tiny import FAMILIES, qwen_image

# Tiny models gain nothing from a second thread, and lose much where another process has that core.
torch.set_num_threads(1)
STEPS_AND_GUIDANCE = [(4, 4.0), (8, 3.0), (6, 5.0), (8, 2.0)]


class Embedded(InterceptedPipeline):
    """Takes prompt embeddings drawn from the seed where there is no text encoder to make them."""

    def __init__(self, pipe, embed, guidance, size):
        super().__init__(pipe, ServingDefaults(width=size, height=size))
        build = self._arguments.build

        def with_embeddings(params):
            kwargs = build(params) | embed(torch.Generator().manual_seed(params.seed))
            return {name: value for name, value in kwargs.items() if name not in ("prompt", "negative_prompt")}

        self._arguments.build = with_embeddings

    def reference(self, params):
        """The picture of diffusers' own call."""
        return to_uint8(self._pipe(**self._arguments.build(params)).images)[0]


@pytest.fixture(params=FAMILIES, scope="module")
def pipeline(request):
    torch.manual_seed(0)
    pipe, *rest = FAMILIES[request.param]()
    for name in ("transformer", "unet", "vae"):
        if getattr(pipe, name, None) is not None:
            getattr(pipe, name).eval()
    return Embedded(pipe, *rest)


def params_of(i):
    steps, guidance = STEPS_AND_GUIDANCE[i]
    return GenerationParams(prompt="p", seed=i, steps=steps, guidance=guidance)


def generate(pipeline, requests, max_num_seqs=8):
    """Run requests through a real engine; {id: Finished}, and the events in order."""
    ended, events = {}, []
    scheduler = StepScheduler(max_num_seqs)
    engine = Engine(scheduler, UniProcExecutor(StepRunner(pipeline)), events.append)
    for id, params in requests.items():
        engine.submit(SchedulerRequest(id, params))
    while len(ended) < len(requests):
        engine.step()
        ended = {event.id: event for event in events if hasattr(event, "status")}
    engine.step()
    return ended, events


def test_alone_it_is_diffusers_own_picture_to_the_bit(pipeline):
    for i in range(2):
        ended, _ = generate(pipeline, {"r": params_of(i)})
        assert ended["r"].status is Status.COMPLETED, ended["r"].error
        assert np.array_equal(ended["r"].result.images[0], pipeline.reference(params_of(i)))


def test_among_others_it_is_the_same_within_two_levels(pipeline):
    ended, _ = generate(pipeline, {f"r{i}": params_of(i) for i in range(4)})
    again, _ = generate(pipeline, {f"r{i}": params_of(i) for i in range(4)})  # the first run proved the keys
    for i in range(4):
        expected = pipeline.reference(params_of(i)).astype(int)
        for run in (ended, again):
            assert np.abs(run[f"r{i}"].result.images[0].astype(int) - expected).max() <= 2
    assert pipeline.batches.batched_calls > 0
    assert None not in pipeline.batches.verdicts.values()


def test_progress_counts_the_timestep_schedulers_steps(pipeline):
    _, events = generate(pipeline, {"r": params_of(1)})
    steps = [(event.step, event.total_steps) for event in events if hasattr(event, "step")]
    assert max(steps) == (8, 8)
    assert sorted(steps) == steps


def test_the_pipelines_own_models_are_left_as_they_were(pipeline):
    before = {name: getattr(pipeline._pipe, name) for name in pipeline._stand_ins}
    generate(pipeline, {"r": params_of(0)})
    assert all(getattr(pipeline._pipe, name) is model for name, model in before.items())
    assert "forward" not in vars(next(iter(before.values())))


def test_an_abort_in_the_middle_leaves_nothing_behind(pipeline):
    runner, events = StepRunner(pipeline), []
    engine = Engine(StepScheduler(4), UniProcExecutor(runner), events.append)
    for id in ("stays", "goes"):
        engine.submit(SchedulerRequest(id, params_of(1)))
    for _ in range(4):
        engine.step()
    engine.abort("goes")
    while not any(getattr(event, "id", "") == "stays" and hasattr(event, "status") for event in events):
        engine.step()
    ended = {event.id: event for event in events if hasattr(event, "status")}
    engine.step()
    assert ended["goes"].status is Status.ABORTED
    assert np.abs(ended["stays"].result.images[0].astype(int) - pipeline.reference(params_of(1)).astype(int)).max() <= 2
    assert runner.stats()["states"] == 0


def test_a_request_that_the_pipeline_refuses_is_invalid_and_fails_alone():
    pipeline = Embedded(*qwen_image())
    bad = GenerationParams(prompt="p", seed=1, steps=4, guidance=1.0, width=64, height=64)
    build = pipeline._arguments.build

    def without_mask(params):
        kwargs = build(params)
        if params.seed == 1:
            kwargs["callback_on_step_end_tensor_inputs"] = ["nonsense"]
        return kwargs

    pipeline._arguments.build = without_mask
    ended, _ = generate(pipeline, {"bad": bad, "good": params_of(0)})
    assert ended["good"].status is Status.COMPLETED
    assert isinstance(ended["bad"].error, RequestError)
    assert ended["bad"].error.kind == "invalid"
    assert "nonsense" in ended["bad"].error.message


def test_only_the_culprit_of_a_failed_batch_fails():
    pipeline = Embedded(*qwen_image())
    real = pipeline.denoise_step

    def fails_on_seed_two(states):
        if any(state.params.seed == 2 and state.step == 1 for state in states):
            raise RuntimeError("poisoned")
        return real(states)

    pipeline.denoise_step = fails_on_seed_two
    ended, _ = generate(pipeline, {f"r{i}": params_of(i) for i in range(4)})
    assert {id: event.status for id, event in ended.items()} == {
        "r0": Status.COMPLETED,
        "r1": Status.COMPLETED,
        "r2": Status.FAILED,
        "r3": Status.COMPLETED,
    }
    assert "poisoned" in str(ended["r2"].error)


def test_whether_a_pipeline_steps_is_its_word_not_the_mere_presence_of_the_attribute():
    pipeline = Embedded(*qwen_image())
    assert can_step(pipeline)
    assert isinstance(pipeline, SupportsStepExecution)
    pipeline.supports_step_execution = False
    assert not can_step(pipeline)


def test_a_pipeline_without_a_denoiser_is_refused_when_told_to_step_and_runs_whole_otherwise():
    class Painter:
        """A pipeline with nothing to intercept."""

        def set_progress_bar_config(self, **_):
            pass

        def __call__(self, prompt):
            raise NotImplementedError

    source = type("Source", (), {"text": "m", "location": "/nowhere", "is_local": False})()
    with pytest.raises(LoadError, match="--no-step-execution"):
        wrap(Painter(), source, step_execution=True, concurrent=True)
    assert wrap(Painter(), source, step_execution=None, concurrent=True).card.mode == "request"


def test_close_before_the_end_runs_the_pipelines_own_clean_up():
    pipeline = Embedded(*qwen_image())
    state = StepState("r", params_of(0))
    pipeline.prepare_encode(state)
    run = state.extra["run"]
    pipeline.close(state)
    assert run.dead
    assert not state.extra
    pipeline.close(state)


def test_guidance_goes_to_the_argument_that_the_model_listens_to():
    for family, name in (("qwen_image", "true_cfg_scale"), ("flux", "guidance_scale"), ("sd3", "guidance_scale")):
        pipe, *_ = FAMILIES[family]()
        kwargs = CallArguments(pipe, ServingDefaults()).build(GenerationParams(prompt="p", guidance=3.0))
        assert kwargs[name] == 3.0
        assert ("negative_prompt" in kwargs) == (family == "qwen_image"), "without one, the scale would do nothing"
