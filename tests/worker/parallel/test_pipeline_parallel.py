"""A replica whose processes have a part of the layers each writes what one process writes."""

import os
import queue
from dataclasses import replace

import numpy as np
import pytest

from omni_worker.config import model_source
from omni_worker.config.records import EngineConfig
from omni_worker.engine.build import build_engine
from omni_worker.engine.engine import Engine
from omni_worker.engine.executor.multiproc import MultiprocExecutor, RunnerSpec
from omni_worker.engine.scheduler import Finished, RequestStatus, SchedulerRequest, StepScheduler
from omni_worker.errors import CommandError
from tests.worker import warm
from tests.worker.engine.executor import failing_ranks
from tests.worker.engine.language_engine import LanguageEngine, params
from tests.worker.language import tiny_models

pytestmark = pytest.mark.processes
ASKED = {
    "greedy": params("ABC", max_tokens=12),
    "drawn": params("DEFGH", max_tokens=20, temperature=0.9, top_p=0.9, seed=3),
    "penalized": params("ABAB", max_tokens=12, repetition_penalty=1.7),
    "filtered": params("ABAB", max_tokens=12, temperature=1.2, min_p=0.2, seed=4),
    "long": params("long " * 60, max_tokens=5, hidden_states=True, logprobs=2),
    "streamed": params("XYZ", max_tokens=9, stream=True, logprobs=0),
    "resumed": params("ABC", max_tokens=12, written=(66, 67, 68), logprobs=1),
    "encoded": params("ABC", max_tokens=0, hidden_states=True),
    "refused": params("A" * 600),
}


def config(**more):
    return EngineConfig(None, 4, 16, False, "fifo", kind="autoregressive", step_timeout=60.0, **more)


class Replica:
    """The engine as a replica builds it."""

    def __init__(self, folder, **more):
        self.events = queue.Queue()
        source = model_source.parse(str(folder))
        self.engine, self.card = build_engine(
            config(**more), source, self.events.put, self.events.put, fork_server=warm.server_for(os.environ)
        )
        self.partials = {}

    def __enter__(self):
        self.engine.start()
        return self

    def __exit__(self, *_):
        self.engine.stop()

    def ends(self, asked):
        for id, one in asked.items():
            self.engine.add(SchedulerRequest(id, one))
        ended = {}
        while not asked.keys() <= ended.keys():
            event = self.events.get(timeout=300)
            if isinstance(event, Finished):
                ended[event.id] = event
            elif event.partial is not None:
                self.partials.setdefault(event.id, []).append(event.partial)
        return ended

    def stats(self):
        return self.engine.collective_rpc("stats").result(60)


def assert_same(one, other):
    assert one.completion.written.tokens == other.completion.written.tokens
    assert one.completion.written.text == other.completion.written.text
    assert one.completion.finish_reason == other.completion.finish_reason
    logs = [[each.logprob for each in result.completion.written.logprobs] for result in (one, other)]
    assert logs[0] == pytest.approx(logs[1], abs=1e-4)
    assert one.embeddings.keys() == other.embeddings.keys()
    for name, states in one.embeddings.items():
        np.testing.assert_allclose(other.embeddings[name], states, atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "size", "more"),
    [
        ("llama", 2, {}),
        ("gemma3, mixed", 2, {"tie_word_embeddings": True}),
        ("gemma2, mixed and soft-capped", 3, {}),
    ],
)
def test_several_processes_write_what_one_writes(tmp_path, kind, size, more):
    tiny_models.save(tmp_path, kind, **more)
    alone = LanguageEngine(tiny_models.served(kind, **more))
    for id, one in ASKED.items():
        alone.add(id, one)
    alone.finish()
    with Replica(tmp_path, pipeline_parallel_size=size) as replica:
        assert replica.card.mode == "generate"
        ended = replica.ends(ASKED)
        assert ended["refused"].error.param == "prompt"
        for id in ASKED.keys() - {"refused"}:
            assert_same(alone.result(id), ended[id].result)
        assert [each.tokens for each in replica.partials["streamed"]] == [
            each.tokens for each in alone.partials["streamed"]
        ]
        replica.engine.abort("nobody")
        stats = replica.stats()
    assert len(stats) == size
    assert all(each["states"] <= 1 and each["slots"] <= 1 for each in stats), "the last that ended may be there still"
    assert len({each["tokens"] for each in stats}) == 1


def test_a_request_that_fails_on_one_rank_fails_alone(tmp_path):
    folder = tiny_models.save(tmp_path)
    alone = LanguageEngine(tiny_models.served("llama"))
    alone.add("a", ASKED["greedy"])
    alone.add("b", ASKED["drawn"])
    alone.finish()
    with Broken(folder) as replica:
        for rank, prompt in failing_ranks.PROMPTS.items():
            first, culprit, second, after = (f"{name}{rank}" for name in ("a", "culprit", "b", "c"))
            ended = replica.ends(
                {first: ASKED["greedy"], culprit: params(prompt, max_tokens=5), second: ASKED["drawn"]}
            )
            assert ended[culprit].status is RequestStatus.FAILED
            assert "a shape does not fit" in str(ended[culprit].error)
            assert_same(ended[first].result, alone.result("a"))
            assert_same(ended[second].result, alone.result("b"))
            again = replica.ends({after: ASKED["greedy"]})
            assert_same(again[after].result, alone.result("a"))


class Broken(Replica):
    """Whose workers build runners that each fail for a prompt of their own."""

    def __init__(self, folder):
        self.events, self.partials = queue.Queue(), {}
        spec = RunnerSpec(f"{failing_ranks.__name__}:build", (config(pipeline_parallel_size=2), str(folder), None))
        self.engine = Engine(
            StepScheduler(4),
            MultiprocExecutor(spec, 2, 60.0, warm.server_for(os.environ)),
            self.events.put,
            self.events.put,
        )


def test_more_ranks_than_layers_are_refused(tmp_path):
    tiny_models.save(tmp_path, num_hidden_layers=1)
    with pytest.raises(CommandError, match="1 layers cannot be spread over 2 ranks"):
        build_engine(
            config(pipeline_parallel_size=2),
            model_source.parse(str(tmp_path)),
            print,
            print,
            fork_server=warm.server_for(os.environ),
        )


def test_a_stage_that_writes_has_no_steps_to_divide(tmp_path):
    tiny_models.save(tmp_path)
    with pytest.raises(CommandError, match="--pipeline-parallel-size"):
        build_engine(config(parallel_size=2), model_source.parse(str(tmp_path)), print, print)


def test_a_stage_that_paints_has_no_layers_to_spread():
    painting = replace(config(pipeline_parallel_size=2), kind="diffusion")
    with pytest.raises(CommandError, match="--pipeline-parallel-size 1"):
        build_engine(painting, model_source.parse("builtin://digits"), print, print)
