"""Every request has its own timestep schedulers."""

import copy
import gc
import inspect
import weakref

import numpy as np
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

from omni_worker.engine.library import generate
from omni_worker.engine.scheduler import StepScheduler
from omni_worker.pipelines.interception.stepping import InterceptedPipeline
from omni_worker.pipelines.interception.timestep_schedulers import copy_for_request
from omni_worker.pipelines.protocol import StepState
from tests.worker.pipelines.tiny import SDXL, build, expected, first_image


class OneAtATime(StepScheduler):
    """Requests run interleaved, and no two calls share a batch: so every bit must be as alone."""

    def __init__(self, max_num_seqs):
        super().__init__(max_num_seqs)
        self._sizes.limit = lambda key: 1


@pytest.mark.parametrize(
    "timestep_scheduler",
    [
        pytest.param(UniPCMultistepScheduler, id="UniPC"),
        pytest.param(DPMSolverMultistepScheduler, id="DPM++ 2M"),
        pytest.param(HeunDiscreteScheduler, id="Heun"),
        pytest.param(EulerAncestralDiscreteScheduler, id="Euler ancestral, with seeds"),
    ],
)
def test_no_state_of_a_timestep_scheduler_leaks_between_interleaved_requests(timestep_scheduler):
    pipe = build(SDXL)
    pipe.scheduler = timestep_scheduler.from_config(pipe.scheduler.config)
    alone = [expected(pipe, SDXL, i) for i in range(4)]
    before = {name: value for name, value in vars(pipe.scheduler).items() if not isinstance(value, torch.Tensor)}
    ended = generate(InterceptedPipeline(pipe), [SDXL.arguments(i) for i in range(4)], scheduler=OneAtATime(4))
    for one, end in zip(alone, ended, strict=True):
        assert np.array_equal(one, first_image(end.result))
    assert all(vars(pipe.scheduler)[name] is value for name, value in before.items()), "the model's own is as it was"


def test_a_timestep_scheduler_is_copied_deeply_only_if_requests_run_interleaved(monkeypatch):
    pipe = build(SDXL)
    copied = []
    monkeypatch.setattr(
        type(pipe.scheduler), "__deepcopy__", lambda self, memo: copied.append(1) or self, raising=False
    )
    generate(InterceptedPipeline(pipe, concurrent=False), [SDXL.arguments(0)], max_num_seqs=1)
    assert not copied
    generate(InterceptedPipeline(pipe, concurrent=True), [SDXL.arguments(0)])
    assert copied


def test_a_copy_is_freed_at_once_and_its_step_looks_like_the_originals():
    original, state = HeunDiscreteScheduler(), StepState("r", {})
    gc.collect()
    gc.disable()
    try:
        one = copy_for_request(original, state, is_shared=True)
        assert inspect.signature(one.step) == inspect.signature(original.step)
        assert one.step.__name__ == "step"
        another = copy.deepcopy(one)
        one.set_timesteps(2)
        another.set_timesteps(2)
        another.step(torch.zeros(1), another.timesteps[0], torch.zeros(1))
        one.step(torch.zeros(1), one.timesteps[0], torch.zeros(1))
        assert state.step == 1, "the steps of a copy of the copy do not count"
        freed = weakref.ref(one)
        del one
        assert freed() is None
    finally:
        gc.enable()
