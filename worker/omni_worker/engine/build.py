"""Puts an engine together from its configuration: pipeline, runner, executor, scheduler."""

from collections.abc import Callable

from omni_worker.config import EngineConfig
from omni_worker.engine.engine import Engine
from omni_worker.engine.executor import UniProcExecutor
from omni_worker.engine.runner import Runner
from omni_worker.engine.runner.diffusion import RequestRunner, StepRunner
from omni_worker.engine.scheduler import POLICIES, RequestScheduler, SchedulerEvent, SchedulerInterface, StepScheduler
from omni_worker.model_source import ModelSource
from omni_worker.pipelines.loading import load
from omni_worker.pipelines.whole import WholePipeline
from omni_worker.requests import ModelCard


def build_engine(
    config: EngineConfig,
    source: ModelSource,
    on_event: Callable[[SchedulerEvent], None],
    on_failure: Callable[[Exception], None],
) -> tuple[Engine, ModelCard]:
    """Load the model and build the engine around it, not yet started. Raises LoadError."""
    pipeline = load(source, config.step_execution, concurrent=config.max_num_seqs > 1).pipeline
    policy = POLICIES[config.scheduling_policy]()
    runner: Runner
    scheduler: SchedulerInterface
    if isinstance(pipeline, WholePipeline):
        runner, scheduler = RequestRunner(pipeline), RequestScheduler(policy, config.max_waiting)
    else:
        runner = StepRunner(pipeline)
        scheduler = StepScheduler(config.max_num_seqs, policy, config.find_batch_size, config.max_waiting)
    return Engine(scheduler, UniProcExecutor(runner), on_event, on_failure), pipeline.card
