"""Which objects count as step pipelines."""

from omni_worker.pipelines.interception.stepping import InterceptedPipeline
from omni_worker.pipelines.protocol import SupportsStepExecution, can_step


def test_whether_a_pipeline_steps_is_its_word_not_the_mere_presence_of_the_attribute(qwen):
    pipeline = InterceptedPipeline(qwen)
    assert can_step(pipeline)
    assert isinstance(pipeline, SupportsStepExecution)
    pipeline.supports_step_execution = False
    assert not can_step(pipeline)
