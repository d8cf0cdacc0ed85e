"""What interception does besides giving the right images (`test_zoo`): progress, abort, clean-up, shared batches."""

import numpy as np
import pytest
import torch

from omni_worker.config import model_source
from omni_worker.engine.engine import Engine
from omni_worker.engine.executor import UniProcExecutor
from omni_worker.engine.library import generate
from omni_worker.engine.runner.diffusion import StepRunner
from omni_worker.engine.scheduler import Finished, RequestProgress, RequestStatus, SchedulerRequest, StepScheduler
from omni_worker.pipelines.batching.keys import KeyTable
from omni_worker.pipelines.interception.stepping import InterceptedPipeline
from omni_worker.pipelines.loading import load
from omni_worker.pipelines.protocol import StepState
from omni_worker.requests import GenerationParams
from tests.worker.pipelines.survey import specimen
from tests.worker.pipelines.tiny import QWEN, build, expected, first_image
from tests.worker.pipelines.zoo import qwen_image


@pytest.fixture(scope="module")
def digits():
    return load(model_source.parse("builtin://digits"), None).pipeline


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
    assert np.abs(first_image(ends[1].result) - expected(qwen, QWEN, 0)).max() * 255 <= 2
    assert runner.stats()["states"] == 0


def test_an_exact_request_shares_no_call_and_gives_the_same_bits_whatever_runs_beside_it(digits):
    exact = GenerationParams(prompt="a red three on black background", steps=6, guidance=2.0, seed=4, exact=True)
    others = [GenerationParams(prompt=f"a blue {word}", steps=6, guidance=2.0) for word in ("one", "two", "six")]
    (alone,) = generate(digits, [exact])
    before = digits.stats()
    both = generate(digits, [exact, exact])
    assert digits.stats()["batched_calls"] == before["batched_calls"]
    among = generate(digits, [exact, *others])
    assert digits.stats()["batched_calls"] > before["batched_calls"], "the others share theirs"
    assert "rounding" not in str(digits.batches.reasons), "that a client asks for it says nothing of the model"
    for one in (*both, among[0]):
        assert np.array_equal(one.result.images[0], alone.result.images[0])


def test_the_abort_of_the_only_request_frees_its_state(qwen):
    runner, events = StepRunner(InterceptedPipeline(qwen)), []
    engine = Engine(StepScheduler(4), UniProcExecutor(runner), events.append)
    engine.add(SchedulerRequest("only", QWEN.arguments(0)))
    for _ in range(5):
        engine.step()
    engine.abort("only")
    engine.step()
    assert runner.stats()["states"] == 0


def test_close_before_the_end_runs_the_pipelines_own_clean_up(qwen):
    pipeline = InterceptedPipeline(qwen)
    state = StepState("r", QWEN.arguments(0))
    pipeline.prepare_encode(state)
    run = pipeline.runs["r"]
    pipeline.close(state)
    assert run.greenlet.dead
    assert not pipeline.runs
    pipeline.close(state)


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
