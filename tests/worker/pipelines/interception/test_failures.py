"""A request that fails, is interrupted or asks for too much memory harms no other."""

import numpy as np
import pytest
import torch

from omni_worker.engine.library import generate
from omni_worker.engine.scheduler import RequestStatus
from omni_worker.errors import RequestError
from omni_worker.model_card import ServingDefaults
from omni_worker.pipelines.interception.stepping import InterceptedPipeline
from omni_worker.requests import GenerationParams
from tests.worker.pipelines.tiny import QWEN, build, expected, first_image


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
        assert np.abs(first_image(ended[i].result) - expected(qwen, QWEN, i)).max() * 255 <= 2
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


def test_an_interrupted_request_reaches_neither_its_timestep_scheduler_nor_the_decoder(qwen):
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
