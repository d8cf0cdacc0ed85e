"""Builds an engine from its configuration: pipeline, runner, executor, scheduler."""

from collections.abc import Callable

from omni_worker.config import model_source
from omni_worker.config.model_source import ModelSource
from omni_worker.config.records import EngineConfig
from omni_worker.engine.engine import Engine, EngineStep
from omni_worker.engine.executor import Executor, UniProcExecutor
from omni_worker.engine.executor.multiproc import MultiprocExecutor, RunnerSpec
from omni_worker.engine.runner import Runner
from omni_worker.engine.runner.autoregressive import AutoregressiveRunner
from omni_worker.engine.runner.diffusion import RequestRunner, StepRunner
from omni_worker.engine.scheduler import POLICIES, RequestScheduler, SchedulerEvent, SchedulerInterface, StepScheduler
from omni_worker.errors import LoadError
from omni_worker.language import loading as language
from omni_worker.language.prompts import PromptTokenizer
from omni_worker.model_card import ModelCard
from omni_worker.parallel.chain import Chain
from omni_worker.parallel.fork_server import ForkServer
from omni_worker.parallel.ranks import Ranks
from omni_worker.pipelines.load_arguments import PipelineParts
from omni_worker.pipelines.loading import load
from omni_worker.pipelines.request_mode import RequestModePipeline


def build_engine(
    config: EngineConfig,
    source: ModelSource,
    on_event: Callable[[SchedulerEvent], None],
    on_failure: Callable[[Exception], None],
    on_step: Callable[[EngineStep], None] | None = None,
    fork_server: ForkServer | None = None,
) -> tuple[Engine, ModelCard]:
    """Load the model and build an engine for it, without starting it. Raises LoadError.

    The `fork_server`, if there is one, starts the processes of an engine that runs in several.
    """
    _check_parallelism(config, source)
    executor: Executor
    size = config.processes
    if size > 1:
        spec = RunnerSpec("omni_worker.engine.build:build_runner", (config, source.text, source.revision))
        executor = multiproc = MultiprocExecutor(spec, size, config.step_timeout, fork_server)
        card = multiproc.card
    else:
        runner, card = build_runner(Ranks(), config, source.text, source.revision)
        executor = UniProcExecutor(runner)
    policy = POLICIES[config.scheduling_policy]()
    scheduler: SchedulerInterface
    if card.mode == "request":
        scheduler = RequestScheduler(policy, config.max_waiting)
    else:
        scheduler = StepScheduler(config.max_num_seqs, policy, config.find_batch_size, config.max_waiting)
    preparer = None
    if _runs_language_model(config, source):
        preparer = PromptTokenizer(language.load_tokenizer(source), card.context_length)
    return Engine(scheduler, executor, on_event, on_failure, on_step, preparer), card


def build_runner(ranks: Ranks, config: EngineConfig, model: str, revision: str | None) -> tuple[Runner, ModelCard]:
    """Load the model into this process, one of `ranks`. Raises LoadError."""
    source = model_source.parse(model, revision)
    if _runs_language_model(config, source):
        return _build_language_runner(ranks, config, source)
    pipeline = load(
        source,
        config.step_execution,
        concurrent=config.max_num_seqs > 1,
        settings=config.load,
        ranks=ranks,
        parts=_parts(config),
        loras=config.loras,
        cache=config.cache,
        prompt_cache_bytes=config.prompt_cache_bytes,
        compile_cache=config.compile_cache,
        parallelism=config.of_model,
    ).pipeline
    if not isinstance(pipeline, RequestModePipeline):
        return StepRunner(pipeline), pipeline.card
    if ranks.size > 1:
        raise LoadError(
            f"{source.text} runs requests whole, and {ranks.size} processes can only divide steps: "
            "serve it without --cfg-parallel-size, --ulysses-degree, --ring-degree and --tensor-parallel-size "
            "(parallelism)"
        )
    return RequestRunner(pipeline), pipeline.card


def _runs_language_model(config: EngineConfig, source: ModelSource) -> bool:
    """Whether the stage runs a language model instead of a diffusers pipeline or a part of one."""
    return config.kind == "autoregressive" and (config.task == "generate" or source.is_language_model)


def _check_parallelism(config: EngineConfig, source: ModelSource) -> None:
    is_language_model = _runs_language_model(config, source)
    if is_language_model and config.parallel_size > 1:
        raise LoadError(
            f"{source.text} writes text, and has no steps to divide: serve it with --cfg-parallel-size 1 "
            "(parallelism.cfg: 1), and spread its layers with --pipeline-parallel-size (parallelism.pipeline)"
        )
    if config.of_model.ranks > 1 and config.kind != "diffusion":
        raise LoadError(
            f"{source.text} runs in a stage without a denoiser, whose calls alone are computed by several devices: "
            f"serve it without {config.of_model.flags}"
        )
    if not is_language_model and config.pipeline_parallel_size > 1:
        raise LoadError(
            f"{source.text} runs in a stage that does not write, and only a language model's layers can be spread: "
            "serve it with --pipeline-parallel-size 1 (parallelism.pipeline: 1)"
        )


def _build_language_runner(ranks: Ranks, config: EngineConfig, source: ModelSource) -> tuple[Runner, ModelCard]:
    if config.loras:
        raise LoadError(f"{source.text} is a language model, and takes no LoRA adapters here: leave out --lora")
    if keys := config.load.needs_pipeline:
        raise LoadError(f"{source.text} is a language model: of load it takes dtype, and not {', '.join(keys)}")
    if config.cache.mode != "none":
        raise LoadError(f"{source.text} is a language model, whose calls are never skipped: leave out --cache")
    model = language.load(source, config.load.dtype, Chain(ranks.rank, ranks.size))
    card = ModelCard(pipeline=model.name, mode=config.task, context_length=model.context_length)
    return AutoregressiveRunner(model, encode_only=config.task == "encode"), card


def _parts(config: EngineConfig) -> PipelineParts:
    """The models of a pipeline that a replica of this stage needs."""
    if config.task == "encode":
        return PipelineParts.TEXT_ENCODERS
    return PipelineParts.ALL if config.text_encoder else PipelineParts.ALL_BUT_TEXT_ENCODERS
