"""The runner of a diffusion stage: what it does with a batch that fails."""

import gc
import weakref

import pytest
import torch

from omni_worker.engine.runner.diffusion import StepRunner
from omni_worker.engine.scheduler import SchedulerOutput, SchedulerRequest


class Pipeline:
    """A step pipeline with one call for each request, and room for `room` of them at a time."""

    supports_step_execution = True
    card = None
    proofs = 0

    def __init__(self, room, error=torch.OutOfMemoryError):
        self.room, self.error, self.sizes, self.held = room, error, [], []

    def prepare_encode(self, state):
        state.key = "key"

    def denoise_step(self, states):
        assert all(activations() is None for activations in self.held), "what has failed is still in memory"
        activations = torch.empty(len(states), 1000)
        self.held = [weakref.ref(activations)]
        self.sizes.append(len(states))
        if len(states) > self.room:
            raise self.error("out of memory")
        return list(range(len(states)))

    def step_scheduler(self, state, prediction):
        state.key = None

    def post_decode(self, state):
        return "done"

    def close(self, state):
        pass

    def stats(self):
        return {}


def run(pipeline, count):
    runner, ids = StepRunner(pipeline), tuple(map(str, range(count)))
    runner.execute(SchedulerOutput(0, new=tuple(SchedulerRequest(id, None) for id in ids)))
    gc.disable()
    try:
        return runner.execute(SchedulerOutput(1, cached=ids))
    finally:
        gc.enable()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, RuntimeError])
def test_a_batch_without_room_is_retried_in_halves_after_its_memory_is_free(error):
    pipeline = Pipeline(2, error)
    output = run(pipeline, 8)
    assert [one.result for one in output.outputs] == ["done"] * 8
    assert pipeline.sizes == [8, 4, 2, 2, 4, 2, 2]
    assert output.out_of_memory
    assert output.timed is None, "its time says nothing about the next batch"


def test_a_batch_that_fails_otherwise_is_retried_one_by_one():
    pipeline = Pipeline(1, ValueError)
    output = run(pipeline, 3)
    assert [one.result for one in output.outputs] == ["done"] * 3
    assert pipeline.sizes == [3, 1, 1, 1]
    assert not output.out_of_memory


def test_a_request_that_does_not_fit_alone_fails_with_the_reason():
    output = run(Pipeline(0), 2)
    assert all("out of memory" in str(one.error) for one in output.outputs)
