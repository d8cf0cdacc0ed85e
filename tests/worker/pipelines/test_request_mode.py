"""Request mode gives what diffusers itself gives."""

import numpy as np

from omni_worker.engine.engine import Engine
from omni_worker.engine.executor import UniProcExecutor
from omni_worker.engine.runner.diffusion import RequestRunner
from omni_worker.engine.scheduler import RequestScheduler, SchedulerRequest
from omni_worker.pipelines.request_mode import RequestModePipeline

from .tiny import QWEN, expected, first_image


def test_request_mode_gives_the_same_image_as_diffusers(qwen):
    events = []
    engine = Engine(RequestScheduler(), UniProcExecutor(RequestRunner(RequestModePipeline(qwen))), events.append)
    engine.add(SchedulerRequest("r", QWEN.arguments(0)))
    engine.step()
    assert np.array_equal(first_image(events[0].result), expected(qwen, QWEN, 0))
