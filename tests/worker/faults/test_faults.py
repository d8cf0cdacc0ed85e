"""No request is lost, whatever happens to replicas: real processes under continuous load of the official client."""

import os
import signal
import time

import numpy as np
import openai
import pytest

from .. import serving
from ..network_namespace import Namespace
from ..serving import Pipeline, eventually
from . import poisoned_model
from .continuous_load import CASES, MAX_LEVELS, PATIENCE, Load, LongRequest, lost_runs, pixels

pytestmark = pytest.mark.processes
HEARTBEAT_TIMEOUT = 3.0
STEP_TIMEOUT = 30.0  # more than the time for which a test stops a replica
DRAIN_SECONDS = 1.0
FLAGS = ("--step-timeout", str(STEP_TIMEOUT), "--drain-timeout", str(DRAIN_SECONDS), "--trust-remote-code")
LONG = 300  # steps: a second or more


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    environment = pytest.MonkeyPatch()
    environment.setenv("PYTHONPATH", poisoned_model.python_path())
    environment.setenv(poisoned_model.MARK, str(tmp_path_factory.mktemp("broken") / "mark"))
    model = poisoned_model.make_model(tmp_path_factory.mktemp("poison") / "model")
    pipeline = Pipeline(model, HEARTBEAT_TIMEOUT, listen="0.0.0.0")
    try:
        for _ in range(3):
            pipeline.add_headless(*FLAGS)
        eventually(lambda: len(pipeline.up()) == 3, "three replicas up")
        yield pipeline
    finally:
        pipeline.close()
        environment.undo()


@pytest.fixture(scope="module")
def references(pipeline):
    """The image of each case from an undisturbed run."""
    return {case["seed"]: pixels(serving.draw(pipeline.head.port, **case)[0]) for case in CASES}


@pytest.fixture(scope="module")
def expected(references, pipeline):
    """The image of a request with LONG steps."""
    return LongRequest(pipeline, LONG).result()


@pytest.fixture(autouse=True)
def all_replicas_up(pipeline):
    """Start each test with three replicas and no running request."""
    for process in (pipeline.head, *pipeline.headless):
        if process.popen.poll() is not None:
            process.start()
    eventually(lambda: len(pipeline.up()) == 3 and not pipeline.running(), "three replicas up and idle")


def address_of(pipeline, replica):
    return next(one["address"] for one in pipeline.replicas() if one["id"] == replica)


def process_of(pipeline, replica):
    """The headless process of this replica, and the replica's process id."""
    port = address_of(pipeline, replica).rpartition(":")[2]
    process = next(one for one in pipeline.headless if port in one.argv)
    return process, process.replicas[0]


def state_at(pipeline, address):
    return next((one["state"] for one in pipeline.replicas() if one["address"] == address), "gone")


def same(picture, expected):
    return np.abs(picture - expected).max() <= MAX_LEVELS


def test_kill_9(pipeline, references, expected):
    before = lost_runs(pipeline, "crashed")
    with Load(pipeline, references) as load:
        long = LongRequest(pipeline, LONG)
        _, pid = process_of(pipeline, long.replica)
        os.kill(pid, signal.SIGKILL)
        assert same(long.result(), expected)
        load.more()
    load.check()
    assert lost_runs(pipeline, "crashed") > before


def test_two_killed_one_after_the_other(pipeline, references):
    """The second one runs the requests that the first one lost. They are suspects then, and still succeed."""
    with Load(pipeline, references) as load:
        long = LongRequest(pipeline, LONG)
        first = long.replica
        os.kill(process_of(pipeline, first)[1], signal.SIGKILL)
        second = eventually(lambda: long.replica != first and long.replica, "the long request elsewhere")
        os.kill(process_of(pipeline, second)[1], signal.SIGKILL)
        long.result()
        load.more()
    load.check()


def test_stopped_for_less_than_the_heartbeat_timeout(pipeline, references):
    before = [lost_runs(pipeline, reason) for reason in ("crashed", "stalled", "left", "refused")]
    with Load(pipeline, references) as load:
        _, pid = process_of(pipeline, LongRequest(pipeline, LONG).replica)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(HEARTBEAT_TIMEOUT / 3)
        os.kill(pid, signal.SIGCONT)
        load.more()
    load.check()
    assert [lost_runs(pipeline, reason) for reason in ("crashed", "stalled", "left", "refused")] == before


def test_stopped_for_longer_than_the_heartbeat_timeout(pipeline, references, expected):
    before = lost_runs(pipeline, "stalled")
    with Load(pipeline, references) as load:
        long = LongRequest(pipeline, LONG)
        address = address_of(pipeline, long.replica)
        _, pid = process_of(pipeline, long.replica)
        os.kill(pid, signal.SIGSTOP)
        try:
            eventually(lambda: state_at(pipeline, address) != "UP", "the silence to be noticed")
            load.more()
        finally:
            os.kill(pid, signal.SIGCONT)
        eventually(lambda: state_at(pipeline, address) == "UP", "the return")
        assert same(long.result(), expected)
        load.more()
    load.check()
    assert lost_runs(pipeline, "stalled") > before
    eventually(lambda: not any(one["running"] for one in pipeline.replicas()), "what it had to be aborted")
    assert pid in {pid for process in pipeline.headless for pid in process.replicas}, "it was not restarted"


def test_sigterm(pipeline, references):
    crashed = lost_runs(pipeline, "crashed")
    with Load(pipeline, references) as load:
        process, _ = process_of(pipeline, LongRequest(pipeline, 150).replica)
        assert process.stop() == 0
        load.more()
    load.check()
    assert len(pipeline.replicas()) == 2
    assert lost_runs(pipeline, "crashed") == crashed


def test_sigterm_when_there_is_too_little_time_hands_back_what_runs(pipeline, references):
    before, crashed = lost_runs(pipeline, "refused"), lost_runs(pipeline, "crashed")
    with Load(pipeline, references, threads=1) as load:
        long = LongRequest(pipeline, 500, size="64x64")
        process, _ = process_of(pipeline, long.replica)
        assert process.stop() == 0
        assert long.result() is not None
    load.check()
    assert lost_runs(pipeline, "refused") > before
    assert lost_runs(pipeline, "crashed") == crashed, "within its grace, after which its supervisor would kill it"


def test_all_replicas_gone_and_back(pipeline, references):
    with Load(pipeline, references) as load:
        killed = time.monotonic()
        for process in pipeline.headless:
            os.kill(process.replicas[0], signal.SIGKILL)
        eventually(lambda: pipeline.up(), "the first to be back")
        back = time.monotonic()
        load.more(12)
    load.check_pictures()
    assert all(isinstance(one.error, openai.APIStatusError) and one.error.status_code == 503 for one in load.failures)
    assert all(killed < one.began < back for one in load.failures), "only those that came while there was none"
    assert all(one.ended - one.began < PATIENCE / 2 for one in load.failures), "and were told before they gave up"


def test_head_kill_9(pipeline, references):
    pids = [process.replicas for process in pipeline.headless]
    with Load(pipeline, references) as load:
        assert LongRequest(pipeline, 1000).replica
        pipeline.head.stop(signal.SIGKILL)
    pipeline.head.start()
    eventually(lambda: len(pipeline.up()) == 3, "the fleet")
    eventually(lambda: not any(one["running"] for one in pipeline.replicas()), "the dead head's requests to end")
    assert [process.replicas for process in pipeline.headless] == pids, "no replica was restarted"
    with Load(pipeline, references) as load:
        load.more(12)
    load.check()


@pytest.fixture
def namespace():
    try:
        made = Namespace()
    except OSError as error:
        pytest.skip(f"no network namespace can be made here: {error}")
    yield made
    made.close()


def test_partition(pipeline, references, expected, namespace):
    process = pipeline.add_headless(*FLAGS, head=namespace.host, inside=namespace.inside)
    try:
        eventually(lambda: len(pipeline.up()) == 4, "a replica in another network")
        inside, address = next(
            (one["id"], one["address"]) for one in pipeline.up() if namespace.address in one["address"]
        )
        with Load(pipeline, references, threads=6) as load:
            longs = [LongRequest(pipeline, LONG) for _ in range(4)]
            eventually(lambda: any(one["replica"] == inside for one in pipeline.running()), "requests there")
            namespace.cut()
            eventually(lambda: state_at(pipeline, address) != "UP", "the partition to be noticed")
            load.more()
            namespace.heal()
            eventually(lambda: state_at(pipeline, address) == "UP", "the return")
            assert all(same(long.result(), expected) for long in longs)
            load.more(12)
        load.check()
    finally:
        pipeline.headless.remove(process)
        process.close()


def test_a_poisoned_request_fails_and_the_fleet_does_not(pipeline, references):
    pids = {pid for process in pipeline.headless for pid in process.replicas}
    with Load(pipeline, references, threads=6) as load:
        with pytest.raises(openai.InternalServerError, match="replicas crashed while they ran this request"):
            serving.draw(pipeline.head.port, poisoned_model.DIES)
        dead = len(pids - {pid for process in pipeline.headless for pid in process.replicas})
        load.more()
    load.check()
    assert dead <= 3
    logs = "".join(process.log for process in pipeline.headless)
    assert 2 <= logs.count("(exit code 66)") <= 3


def test_a_replica_that_fails_everything_ends_itself_and_costs_no_request(pipeline, references):
    """Even the request that broke it is served by another replica."""
    with Load(pipeline, references, threads=6) as load:
        assert serving.draw(pipeline.head.port, poisoned_model.BREAKS)
        eventually(
            lambda: any("so did one of the replica's own" in process.log for process in pipeline.headless),
            "the end of the replica that is broken",
            60,
        )
        eventually(lambda: len(pipeline.up()) == 3, "its return")
        load.more(12)
    load.check()
    assert lost_runs(pipeline, "failed") >= 3


def test_a_replica_that_is_stuck_is_restarted_and_a_client_that_left_is_not_retried(pipeline, references):
    before = lost_runs(pipeline, "crashed")
    with Load(pipeline, references, threads=2) as load:
        stuck = LongRequest(pipeline, prompt=poisoned_model.HANGS, timeout=2.0)
        with pytest.raises(openai.APITimeoutError):
            stuck.result()
        eventually(
            lambda: any(
                f"a step did not end within {STEP_TIMEOUT:g} s" in process.log for process in pipeline.headless
            ),
            "the end of the replica that is stuck",
        )
        load.more()
    load.check()
    assert sum(process.log.count("a step did not end") for process in pipeline.headless) == 1
    assert lost_runs(pipeline, "crashed") <= before + 2, "only what ran beside it"
