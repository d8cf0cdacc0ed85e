"""A replica of two processes makes the pictures that one makes: calls, and rows of one call, are divided among them."""

import os
import queue

import msgspec
import numpy as np
import pytest

from omni_settings.parallelism import UNDIVIDED, ModelParallelism
from omni_worker.config import model_source
from omni_worker.config.records import EngineConfig
from omni_worker.engine.build import build_engine
from omni_worker.engine.executor.multiproc import MultiprocExecutor, RunnerSpec
from omni_worker.engine.scheduler import Finished, RequestProgress, RequestStatus, SchedulerRequest
from omni_worker.errors import CommandError
from omni_worker.requests import CacheSettings, GenerationParams
from tests.worker import warm

pytestmark = pytest.mark.processes
COUNTS = ("batched_calls", "single_calls", "calls_foreseen", "calls_skipped")


def config(parallel_size, step_execution=None, of_model=UNDIVIDED):
    return EngineConfig(
        step_execution=step_execution,
        max_num_seqs=4,
        max_waiting=64,
        find_batch_size=False,
        scheduling_policy="fifo",
        parallel_size=parallel_size,
        of_model=of_model,
    )


class Replica:
    """An engine of as many processes, as a replica runs it."""

    def __init__(self, parallel_size, of_model=UNDIVIDED):
        self._events = queue.Queue()
        source = model_source.parse("builtin://digits")
        self.engine, card = build_engine(
            config(parallel_size, of_model=of_model),
            source,
            self._events.put,
            self._events.put,
            fork_server=warm.server_for(os.environ),
        )
        assert card.mode == "step"
        self.engine.start()

    def pictures(self, requests):
        """The pictures of batches of requests, and by how much each process's figures grew."""
        before, ended = self._stats(), {}
        for batch in requests:
            for id, params in batch.items():
                self.engine.add(SchedulerRequest(id, params))
            while not batch.keys() <= ended.keys():
                event = self._events.get(timeout=600)
                if isinstance(event, Finished):
                    assert event.status is RequestStatus.COMPLETED, event.error
                    ended[event.id] = event.result.images[0]
        grown = [
            {name: now[name] - then[name] for name in COUNTS} for then, now in zip(before, self._stats(), strict=True)
        ]
        return ended, grown

    def next_event(self, kind):
        """The next event of a kind."""
        while not isinstance(event := self._events.get(timeout=600), kind):
            pass
        return event

    def _stats(self):
        return self.engine.collective_rpc("stats").result(60)


@pytest.fixture(scope="module")
def replicas():
    """Replicas of one and of two processes."""
    started = []
    try:
        for size in (1, 2):
            started.append(Replica(size))
        yield started
    finally:
        for replica in started:
            replica.engine.stop()


def test_two_processes_make_the_pictures_of_one(replicas):
    def params(i):
        return GenerationParams(
            prompt=f"a red {('one', 'two', 'six', 'ten')[i % 4]} on black background", seed=i, steps=3
        )

    requests = [{"alone": params(9)}, {f"r{i}": params(i) for i in range(4)}, {f"s{i}": params(i) for i in range(4)}]
    (one, _), (two, stats) = (replica.pictures(requests) for replica in replicas)
    assert one.keys() == two.keys()
    for id, picture in one.items():
        assert np.abs(picture.astype(int) - two[id].astype(int)).max() <= 2
    assert len(stats) == 2
    assert all(each["batched_calls"] > 0 for each in stats), "both have had their part"


def test_of_a_request_alone_each_of_two_processes_makes_half_the_calls_and_the_picture_is_the_same_to_the_bit(replicas):
    """Its guidance calls the model twice a step, one call after the other; but the second is foreseen."""
    requests = [{"alone": GenerationParams(prompt="a red six on black background", seed=3, steps=8)}]
    (one, (of_one,)), (two, (first, second)) = (replica.pictures(requests) for replica in replicas)
    assert np.array_equal(one["alone"], two["alone"])
    assert first["calls_foreseen"] == second["calls_foreseen"] == 7, "in all steps but the first"
    assert 7 <= second["single_calls"] < of_one["single_calls"]


def test_two_processes_skip_the_same_calls(replicas):
    prompt, cache = "a red six on black background", CacheSettings()
    requests = [
        {"alone": GenerationParams(prompt=prompt, seed=3, steps=20, cache=cache)},
        {f"r{i}": GenerationParams(prompt=prompt, seed=i, steps=12, cache=cache if i % 2 else None) for i in range(4)},
    ]
    (one, (of_one,)), (two, (first, second)) = (replica.pictures(requests) for replica in replicas)
    for id, picture in one.items():
        assert np.abs(picture.astype(int) - two[id].astype(int)).max() <= 2
    assert first["calls_skipped"] == second["calls_skipped"] == of_one["calls_skipped"] > 0


def test_of_two_processes_one_keeps_all_that_a_request_with_a_cache_of_diffusers_remembers(replicas):
    prompt, cache = "a red six on black background", CacheSettings(mode="first-block", threshold=0.5)
    requests = [
        {f"r{i}": GenerationParams(prompt=prompt, seed=i, steps=12, cache=cache if i % 2 else None) for i in range(4)}
    ]
    (one, _), (two, _) = (replica.pictures(requests) for replica in replicas)
    assert all(np.array_equal(one[f"r{i}"], two[f"r{i}"]) for i in (1, 3))


def test_two_pairs_of_processes_divide_the_rows_and_each_pair_the_sequences(replicas):
    """The images are those of one process, also after a request that was aborted."""

    def params(i):
        return GenerationParams(
            prompt=f"a red {('one', 'two', 'six', 'ten')[i % 4]} on black background", seed=i, steps=3
        )

    requests = [{"alone": params(9)}, {f"r{i}": params(i) for i in range(3)}, {"again": params(9)}]
    one, _ = replicas[0].pictures(requests)
    replica = Replica(2, ModelParallelism(ulysses=2))
    try:
        four, stats = replica.pictures(requests[:2])
        replica.engine.add(SchedulerRequest("aborted", msgspec.structs.replace(params(1), steps=500)))
        while replica.next_event(RequestProgress).step < 2:
            pass
        replica.engine.abort("aborted")
        assert replica.next_event(Finished).status is RequestStatus.ABORTED
        four |= replica.pictures(requests[2:])[0]
    finally:
        replica.engine.stop()
    for id, picture in one.items():
        assert np.abs(picture.astype(int) - four[id].astype(int)).max() <= 2
    assert len(stats) == 4
    assert all(each["batched_calls"] > 0 for each in stats)


def test_a_model_that_runs_requests_whole_is_not_divided():
    spec = RunnerSpec(
        "omni_worker.engine.build:build_runner", (config(2, step_execution=False), "builtin://digits", None)
    )
    with pytest.raises(CommandError, match="without --cfg-parallel-size"):
        MultiprocExecutor(spec, 2, fork_server=warm.server_for(os.environ))
