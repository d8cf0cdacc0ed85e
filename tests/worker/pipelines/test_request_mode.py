"""Request mode gives what diffusers itself gives."""

import diffusers
import numpy as np
import pytest
import torch

from omni_worker.engine.engine import Engine
from omni_worker.engine.executor import UniProcExecutor
from omni_worker.engine.runner.diffusion import RequestRunner
from omni_worker.engine.scheduler import RequestScheduler, SchedulerRequest
from omni_worker.pipelines.request_mode import RequestModePipeline

from .tiny import QWEN, build, expected, first_image


def test_request_mode_gives_the_same_image_as_diffusers(qwen):
    events = []
    engine = Engine(RequestScheduler(), UniProcExecutor(RequestRunner(RequestModePipeline(qwen))), events.append)
    engine.add(SchedulerRequest("r", QWEN.arguments(0)))
    engine.step()
    assert np.array_equal(first_image(events[0].result), expected(qwen, QWEN, 0))


class FailsWhileItsModelIsCast(diffusers.QwenImagePipeline):
    fails = True

    def encode_prompt(self, *args, **kwargs):
        prompts = super().encode_prompt(*args, **kwargs)
        if self.fails:
            self.vae.to(torch.float64)
            self.transformer.transformer_blocks[0].attn.processor = None
            torch.set_default_dtype(torch.float64)
            raise RuntimeError("no room")
        return prompts


def test_a_request_that_fails_in_the_middle_leaves_the_models_as_they_were():
    pipe = FailsWhileItsModelIsCast(**build(QWEN).components)
    pipeline = RequestModePipeline(pipe)
    with pytest.raises(RuntimeError, match="no room"):
        pipeline.generate(QWEN.arguments(0))
    assert torch.get_default_dtype() == torch.float32
    pipe.fails = False
    assert np.array_equal(first_image(pipeline.generate(QWEN.arguments(0))), expected(build(QWEN), QWEN, 0))
