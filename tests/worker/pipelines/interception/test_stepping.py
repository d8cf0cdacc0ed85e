"""What interception does beside giving the right pictures (`test_zoo`): progress, abort, failures, state of its own."""

import msgspec
import numpy as np
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

from omni_worker.config import model_source
from omni_worker.engine.engine import Engine
from omni_worker.engine.executor import UniProcExecutor
from omni_worker.engine.library import generate
from omni_worker.engine.runner.diffusion import RequestRunner, StepRunner
from omni_worker.engine.scheduler import (
    Finished,
    RequestProgress,
    RequestScheduler,
    RequestStatus,
    SchedulerRequest,
    StepScheduler,
)
from omni_worker.errors import LoadError, RequestError
from omni_worker.model_card import ServingDefaults
from omni_worker.pipelines.arguments.call_arguments import CallArguments
from omni_worker.pipelines.batching.keys import KeyTable
from omni_worker.pipelines.interception import previews
from omni_worker.pipelines.interception.stepping import InterceptedPipeline
from omni_worker.pipelines.loading import load, wrap_pipeline
from omni_worker.pipelines.protocol import StepState, SupportsStepExecution, can_step
from omni_worker.pipelines.request_mode import RequestModePipeline
from omni_worker.requests import GenerationParams
from tests.worker.pipelines.survey import specimen
from tests.worker.pipelines.zoo import flux, qwen_image, stable_diffusion_3, stable_diffusion_xl
from tests.worker.pipelines.zoo.check import arrays

# Tiny models gain nothing from a second thread, and lose much where another process has that core.
torch.set_num_threads(1)


SOURCE = model_source.ModelSource("m", "/nowhere", is_local=False)
QWEN = specimen(qwen_image, "QwenImagePipeline")
SDXL = specimen(stable_diffusion_xl, "StableDiffusionXLPipeline")


def build(one):
    torch.manual_seed(0)
    return one.build()


@pytest.fixture(scope="module")
def qwen():
    return build(QWEN)


def picture(output):
    return arrays(output)[0]


def expected(pipe, one, i):
    with torch.no_grad():
        return picture(pipe(**one.arguments(i)))


class OneAtATime(StepScheduler):
    """Requests run interleaved, and no two calls share a batch: so every bit must be as alone."""

    def limit(self, key):
        return 1


@pytest.mark.parametrize(
    "solver",
    [
        pytest.param(UniPCMultistepScheduler, id="UniPC"),
        pytest.param(DPMSolverMultistepScheduler, id="DPM++ 2M"),
        pytest.param(HeunDiscreteScheduler, id="Heun"),
        pytest.param(EulerAncestralDiscreteScheduler, id="Euler ancestral, with seeds"),
    ],
)
def test_no_state_of_a_solver_leaks_between_interleaved_requests(solver):
    pipe = build(SDXL)
    pipe.scheduler = solver.from_config(pipe.scheduler.config)
    alone = [expected(pipe, SDXL, i) for i in range(4)]
    before = {name: value for name, value in vars(pipe.scheduler).items() if not isinstance(value, torch.Tensor)}
    ended = generate(InterceptedPipeline(pipe), [SDXL.arguments(i) for i in range(4)], scheduler=OneAtATime(4))
    for one, end in zip(alone, ended, strict=True):
        assert np.array_equal(one, picture(end.result))
    assert all(vars(pipe.scheduler)[name] is value for name, value in before.items()), "the model's own is as it was"


def test_a_solver_is_copied_only_where_another_request_can_run_beside(monkeypatch):
    pipe = build(SDXL)
    copied = []
    monkeypatch.setattr(
        type(pipe.scheduler), "__deepcopy__", lambda self, memo: copied.append(1) or self, raising=False
    )
    generate(InterceptedPipeline(pipe, concurrent=False), [SDXL.arguments(0)], max_num_seqs=1)
    assert not copied
    generate(InterceptedPipeline(pipe, concurrent=True), [SDXL.arguments(0)])
    assert copied


def test_progress_counts_the_timestep_schedulers_steps(qwen):
    events = []
    arguments = QWEN.arguments(1)
    generate(InterceptedPipeline(qwen), [arguments], on_event=events.append)
    steps = [(event.step, event.total_steps) for event in events if isinstance(event, RequestProgress)]
    assert max(steps) == (arguments["num_inference_steps"],) * 2
    assert sorted(steps) == steps


def test_the_pipelines_own_models_are_left_as_they_were(qwen):
    before = {name: (part, dict(vars(part))) for name, part in vars(qwen).items() if isinstance(part, torch.nn.Module)}
    generate(InterceptedPipeline(qwen), [QWEN.arguments(0)])
    for name, (part, attributes) in before.items():
        assert getattr(qwen, name) is part
        assert vars(part).keys() == attributes.keys()


def test_an_abort_in_the_middle_leaves_nothing_behind(qwen):
    runner, events = StepRunner(InterceptedPipeline(qwen)), []
    engine = Engine(StepScheduler(4), UniProcExecutor(runner), events.append)
    for id, i in (("stays", 0), ("goes", 1)):
        engine.add(SchedulerRequest(id, QWEN.arguments(i)))
    for _ in range(6):
        engine.step()
    engine.abort("goes")
    engine.step()
    assert [event.status for event in events if isinstance(event, Finished)] == [RequestStatus.ABORTED]
    assert runner.stats()["states"] == 1, "freed within the step"
    while len(ends := [event for event in events if isinstance(event, Finished)]) < 2:
        engine.step()
    engine.step()
    assert np.abs(picture(ends[1].result) - expected(qwen, QWEN, 0)).max() * 255 <= 2
    assert runner.stats()["states"] == 0


def test_the_abort_of_the_only_request_frees_its_state(qwen):
    runner, events = StepRunner(InterceptedPipeline(qwen)), []
    engine = Engine(StepScheduler(4), UniProcExecutor(runner), events.append)
    engine.add(SchedulerRequest("only", QWEN.arguments(0)))
    for _ in range(5):
        engine.step()
    engine.abort("only")
    engine.step()
    assert runner.stats()["states"] == 0


def test_a_request_that_the_pipeline_refuses_is_invalid_and_fails_alone(qwen):
    bad = QWEN.arguments(1) | {"callback_on_step_end_tensor_inputs": ["nonsense"]}
    good, failed = generate(InterceptedPipeline(qwen), [QWEN.arguments(0), bad])
    assert good.status is RequestStatus.COMPLETED
    assert isinstance(failed.error, RequestError)
    assert failed.error.kind == "invalid"
    assert "nonsense" in failed.error.message


def raises(pipe, i, kwargs):
    raise RuntimeError("poisoned in its step")


@pytest.mark.parametrize(
    ("poison", "message"),
    [
        pytest.param({"generator": "no generator"}, "", id="raises before its first call"),
        pytest.param({"callback_on_step_end": lambda *_: raises(*_[:3])}, "in its step", id="raises in its step"),
        pytest.param({"output_type": "np", "attention_kwargs": {"nonsense": object()}}, "", id="raises in the model"),
        pytest.param({"output_type": "nonsense"}, "nonsense", id="raises after its last call"),
    ],
)
def test_a_poisoned_request_fails_alone_with_its_cause(qwen, poison, message):
    pipeline = InterceptedPipeline(qwen)
    requests = [QWEN.arguments(i) for i in range(3)]
    requests[1] |= poison
    ended = generate(pipeline, requests)
    for i in (0, 2):
        assert ended[i].status is RequestStatus.COMPLETED
        assert np.abs(picture(ended[i].result) - expected(qwen, QWEN, i)).max() * 255 <= 2
    if ended[1].status is not RequestStatus.COMPLETED:  # an unknown attention argument is only warned of
        assert message in str(ended[1].error)


def test_only_the_culprit_of_a_failed_batch_fails(qwen):
    pipeline = InterceptedPipeline(qwen)
    real = pipeline.denoise_step

    def fails_with_two(states):
        if any(state.request_id == "2" and state.step == 1 for state in states):
            raise RuntimeError("poisoned")
        return real(states)

    pipeline.denoise_step = fails_with_two
    ended = generate(pipeline, [QWEN.arguments(i) for i in range(4)])
    assert [end.status for end in ended] == [
        RequestStatus.COMPLETED,
        RequestStatus.COMPLETED,
        RequestStatus.FAILED,
        RequestStatus.COMPLETED,
    ]
    assert "poisoned" in str(ended[2].error)


def test_a_batch_that_asks_for_too_much_memory_is_run_in_parts_from_then_on(qwen):
    pipeline = InterceptedPipeline(qwen)
    real, sizes = pipeline.denoise_step, []

    def has_room_for_two(states):
        sizes.append(len(states))
        if len(states) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return real(states)

    pipeline.denoise_step = has_room_for_two
    ended = generate(pipeline, [QWEN.arguments(i) for i in range(4)])
    assert all(end.status is RequestStatus.COMPLETED for end in ended)
    assert sizes.count(4) <= 6, "once for each key, not once for each step"


def test_an_interrupted_request_reaches_neither_its_solver_nor_the_decoder(qwen):
    pipeline = InterceptedPipeline(qwen)
    real, resumed = pipeline.denoise_step, []
    pipeline.denoise_step = lambda states: [
        None if state.request_id == "0" and state.step == 2 else answer
        for state, answer in zip(states, real(states), strict=True)
    ]
    step_scheduler = pipeline.step_scheduler
    pipeline.step_scheduler = lambda state, answer: resumed.append(answer) or step_scheduler(state, answer)
    ended = generate(pipeline, [QWEN.arguments(i) for i in range(2)])
    assert ended[0].error.kind == "aborted"
    assert ended[1].status is RequestStatus.COMPLETED
    assert all(answer is not None for answer in resumed)


def test_values_that_are_no_numbers_fail_their_own_request():
    pipe = build(QWEN)
    pipeline = InterceptedPipeline(pipe, ServingDefaults(width=32, height=32))
    real = pipeline.denoise_step

    def poison(states):
        return [
            tuple(item * float("nan") for item in answer) if state.params.seed == 1 and state.in_loop else answer
            for state, answer in zip(states, real(states), strict=True)
        ]

    pipeline.denoise_step = poison
    prompts = [GenerationParams(prompt=QWEN.arguments(i)["prompt"], seed=i, steps=3) for i in range(3)]
    ended = generate(pipeline, prompts)
    assert [end.status for end in ended] == [RequestStatus.COMPLETED, RequestStatus.FAILED, RequestStatus.COMPLETED]
    assert "no numbers" in str(ended[1].error)


def test_request_mode_runs_the_same_pipeline_whole(qwen):
    events = []
    engine = Engine(RequestScheduler(), UniProcExecutor(RequestRunner(RequestModePipeline(qwen))), events.append)
    engine.add(SchedulerRequest("r", QWEN.arguments(0)))
    engine.step()
    assert np.array_equal(picture(events[0].result), expected(qwen, QWEN, 0))


def test_whether_a_pipeline_steps_is_its_word_not_the_mere_presence_of_the_attribute(qwen):
    pipeline = InterceptedPipeline(qwen)
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

    with pytest.raises(LoadError, match="--no-step-execution"):
        wrap_pipeline(Painter(), SOURCE, step_execution=True, concurrent=True)
    assert wrap_pipeline(Painter(), SOURCE, step_execution=None, concurrent=True).card.mode == "request"


def test_a_pipeline_that_steps_by_itself_is_driven_as_it_is(qwen):
    class Native(InterceptedPipeline):
        """Steps by a protocol of its own."""

    native = Native(qwen)
    assert wrap_pipeline(native, SOURCE, step_execution=None, concurrent=True) is native
    assert generate(native, [QWEN.arguments(0)])[0].status is RequestStatus.COMPLETED


def test_a_pipeline_that_says_it_does_not_step_is_believed():
    pipe = build(QWEN)
    pipe.supports_step_execution = False
    with pytest.raises(LoadError, match=r"says that it does not step.*--no-step-execution"):
        wrap_pipeline(pipe, SOURCE, step_execution=True, concurrent=True)
    assert wrap_pipeline(pipe, SOURCE, step_execution=None, concurrent=True).card.mode == "request"


def test_close_before_the_end_runs_the_pipelines_own_clean_up(qwen):
    pipeline = InterceptedPipeline(qwen)
    state = StepState("r", QWEN.arguments(0))
    pipeline.prepare_encode(state)
    run = pipeline.runs["r"]
    pipeline.close(state)
    assert run.greenlet.dead
    assert not pipeline.runs
    pipeline.close(state)


def test_guidance_goes_to_the_argument_that_the_model_listens_to():
    for module, name, argument in (
        (qwen_image, "QwenImagePipeline", "true_cfg_scale"),
        (flux, "FluxPipeline", "guidance_scale"),
        (stable_diffusion_3, "StableDiffusion3Pipeline", "guidance_scale"),
    ):
        kwargs = CallArguments(build(specimen(module, name)), ServingDefaults()).build(
            GenerationParams(prompt="p", guidance=3.0)
        )
        assert kwargs[argument] == 3.0
        assert ("negative_prompt" in kwargs) == (argument == "true_cfg_scale"), (
            "without one, the scale would do nothing"
        )


def test_text_encoding_denoising_and_decoding_are_each_batched(qwen):
    pipeline, sizes = InterceptedPipeline(qwen), {}
    real = pipeline.denoise_step

    def count(states):
        sizes.setdefault(states[0].key.phase, []).append(len(states))
        return real(states)

    pipeline.denoise_step = count
    generate(pipeline, [QWEN.arguments(0) for _ in range(4)])
    assert {phase: max(own) for phase, own in sizes.items()} == {"encode": 4, "denoise": 4, "decode": 4}


def test_prompts_of_different_lengths_share_a_batch():
    one = specimen(qwen_image, "QwenImagePipeline-lengths")
    pipeline = InterceptedPipeline(build(one))
    keys = set()
    key_of = pipeline.batches.key_of
    pipeline.batches.key_of = lambda call: (
        keys.add((call.phase, KeyTable.of(pipeline.batches.keys, call))) or key_of(call)
    )
    generate(pipeline, [one.arguments(i) for i in range(4)])
    assert sum(phase == "denoise" for phase, _ in keys) == 1


def previews_of(pipeline, params, **others):
    events = []
    ended = generate(pipeline, [params, *others.get("beside", ())], on_event=events.append)
    assert all(end.status is RequestStatus.COMPLETED for end in ended), ended
    shown = [event for event in events if isinstance(event, RequestProgress) and event.partial is not None]
    return ended[0].result.images[0], [(event.step, event.partial[0]) for event in shown if event.id == "0"]


@pytest.fixture(scope="module")
def digits():
    return load(model_source.parse("builtin://digits"), step_execution=True).pipeline


def test_previews_come_every_few_steps_and_look_more_and_more_like_the_end(digits, monkeypatch):
    monkeypatch.setattr(previews, "MAX_TIME_SHARE", 1.0)
    params = GenerationParams(prompt="a red three on black background", seed=3, steps=12)
    plain = generate(digits, [params])[0].result.images[0]
    beside = [GenerationParams(prompt="a blue one on white background", seed=i, steps=9) for i in range(2)]
    final, shown = previews_of(digits, msgspec.structs.replace(params, preview_every=3), beside=beside)
    assert np.abs(final.astype(int) - plain.astype(int)).max() <= 2, "previews leave the picture as it is"
    assert [step for step, _ in shown] == [3, 6, 9]
    distances = [np.abs(picture.astype(int) - final.astype(int)).mean() for _, picture in shown]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 10, "three steps before the end it is nearly there"


def test_previews_that_cost_too_much_are_left_out(digits, monkeypatch):
    monkeypatch.setattr(previews, "MAX_TIME_SHARE", 0.0)
    params = GenerationParams(prompt="a red three on black background", steps=12, preview_every=1)
    assert len(previews_of(digits, params)[1]) == 1
    assert digits.stats()["preview_seconds"] > 0


def test_a_preview_that_fails_harms_nothing_else(digits, monkeypatch):
    monkeypatch.setattr(previews, "generation_result", lambda output: 1 / 0)
    params = GenerationParams(prompt="a red three on black background", steps=4, preview_every=1)
    assert previews_of(digits, params)[1] == []
