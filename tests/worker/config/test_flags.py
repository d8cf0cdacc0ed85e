"""The flags of `omni serve`: what they mean together, and which combinations are refused."""

import pytest

from omni_settings.parallelism import ModelParallelism
from omni_worker.config.flags import LB_POLICIES, SCHEDULING_POLICIES
from omni_worker.config.records import ReplicaConfig
from omni_worker.engine.scheduler import POLICIES
from omni_worker.errors import UsageError
from omni_worker.orchestrator.balancers import BALANCERS

from .command_lines import parse


def test_a_head_by_default():
    config = parse()
    assert config.head is not None
    assert (config.port, config.master_port, config.head.coordinator_port, config.head.coordinator_pub_port) == (
        8000,
        9000,
        9001,
        9002,
    )
    assert (config.head.lb_policy, config.head.heartbeat_timeout) == ("least-queue-length", 30.0)
    assert [config.replica(i).data_port for i in (0, 1)] == [9100, 9101]


def test_headless_replicas_find_the_head_by_its_address():
    config = parse("--headless", "--omni-master-address", "head", "--omni-replica-address", "10.0.0.7", "--insecure")
    assert config.head is None
    assert config.replica(0).master_address == "head"
    assert (config.replica(0).address, config.replica(0).bind_host) == ("10.0.0.7", "*")


def test_a_replica_is_told_of_its_processes():
    engine = parse("--cfg-parallel-size", "2", "--step-timeout", "30").replica(0).engine
    assert (engine.parallel_size, engine.step_timeout) == (2, 30.0)
    assert parse().replica(0).engine.parallel_size == 1


def test_ranks_that_compute_each_call_together():
    engine = parse("--cfg-parallel-size", "2", "--ulysses-degree", "3").replica(0).engine
    assert (engine.of_model, engine.processes) == (ModelParallelism(ulysses=3), 6)
    assert parse("--tensor-parallel-size", "2").replica(0).engine.of_model == ModelParallelism(tensor=2)
    assert parse().replica(0).engine.processes == 1
    assert ReplicaConfig.decode(parse("--ulysses-degree", "3").replica(0).encode()).engine.of_model.ulysses == 3


def test_the_flags_offer_exactly_the_policies_that_there_are():
    assert set(LB_POLICIES) == set(BALANCERS)
    assert set(SCHEDULING_POLICIES) == set(POLICIES)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        pytest.param(["--headless"], "--omni-master-address", id="headless without a head"),
        pytest.param(["--ssl-keyfile", "k.pem"], "--ssl-certfile", id="a key without its certificate"),
        pytest.param(
            ["--headless", "--omni-master-address", "h", "--omni-dp-size-local", "0"],
            "at least 1",
            id="headless without replicas",
        ),
        pytest.param(
            ["--cfg-parallel-size", "2", "--no-step-execution"], "divides single steps", id="whole requests over ranks"
        ),
        pytest.param(
            ["--ulysses-degree", "2", "--no-step-execution"], "divides single steps", id="whole requests, divided"
        ),
        pytest.param(["--ulysses-degree", "2", "--offload", "model"], "--offload", id="an offloaded model, divided"),
        pytest.param(["--ulysses-degree", "2", "--cache", "mag"], "--cache", id="a cache in a divided model"),
        pytest.param(["--tensor-parallel-size", "2", "--ulysses-degree", "2"], "keep one", id="both"),
        pytest.param(["--ring-degree", "2"], "load.attention to one of .*flash", id="a ring without a kernel"),
        pytest.param(["--tensor-parallel-size", "2", "--lora", "a=/b"], "--lora", id="adapters of divided weights"),
        pytest.param(["--ulysses-degree", "2", "--compile"], "--compile", id="a compiled model, divided"),
        pytest.param(["--ulysses-degree", "2", "--attention", "flex"], "native", id="an attention that is not divided"),
        pytest.param(["--stage-config", "/nowhere.yaml"], "No such file", id="a stage config that is not there"),
    ],
)
def test_flags_that_do_not_fit_together_are_refused(argv, says):
    with pytest.raises(UsageError, match=says):
        parse(*argv)


@pytest.mark.parametrize(
    "argv",
    [
        ["--port", "0"],
        ["--port", "http"],
        ["--omni-dp-size-local", "-1"],
        ["--max-num-seqs", "0"],
        ["--cfg-parallel-size", "0"],
        ["--omni-heartbeat-timeout", "never"],
        ["--drain-timeout", "inf"],
        ["--omni-lb-policy", "fastest"],
    ],
)
def test_a_bad_value_ends_with_usage(argv, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(*argv)
    assert ended.value.code == 2
    assert argv[0] in capsys.readouterr().err
