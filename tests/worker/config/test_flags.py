"""The flags of `omni serve`: what they mean together, and what is said where they are wrong."""

import argparse
import json

import pytest

from omni_worker.config.flags import LB_POLICIES, SCHEDULING_POLICIES, add_arguments, from_arguments
from omni_worker.engine.scheduler import POLICIES
from omni_worker.errors import UsageError
from omni_worker.orchestrator.balancers import BALANCERS


def parse(*argv):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return from_arguments(parser.parse_args(["builtin://digits", *argv]))


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
    config = parse("--headless", "--omni-master-address", "head", "--omni-replica-address", "10.0.0.7")
    assert config.head is None
    assert config.replica(0).master_address == "head"
    assert (config.replica(0).address, config.replica(0).bind_host) == ("10.0.0.7", "0.0.0.0")


def test_a_replica_is_told_of_its_processes():
    engine = parse("--cfg-parallel-size", "2", "--step-timeout", "30").replica(0).engine
    assert (engine.parallel_size, engine.step_timeout) == (2, 30.0)
    assert parse().replica(0).engine.parallel_size == 1


def test_the_flags_offer_exactly_the_policies_that_there_are():
    assert set(LB_POLICIES) == set(BALANCERS)
    assert set(SCHEDULING_POLICIES) == set(POLICIES)


def test_the_stage_config_names_the_stages(tmp_path):
    file = tmp_path / "stages.yaml"
    file.write_text(json.dumps({"stages": [{"id": 0, "name": "thinker"}, {"id": 1, "name": "painter"}]}))
    assert [stage.name for stage in parse("--stage-config", str(file)).head.stages] == ["thinker", "painter"]


def test_the_database_of_videos_may_come_by_the_environment(monkeypatch):
    monkeypatch.setenv("OMNI_DATABASE_URL", "sqlite://")
    assert parse().head.api.videos.database == "sqlite://"
    assert parse("--database-url", "sqlite:///a").head.api.videos.database == "sqlite:///a", "a flag goes before it"
    with pytest.raises(UsageError, match=r"--data-dir and \$OMNI_DATABASE_URL exclude each other"):
        parse("--data-dir", "/videos")
    monkeypatch.setenv("OMNI_DATABASE_URL", "")
    assert parse("--data-dir", "/videos").head.api.videos.database is None


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
        pytest.param(["--stage-config", "/nowhere.yaml"], "No such file", id="a stage config that is not there"),
    ],
)
def test_flags_that_do_not_fit_together_are_refused(argv, says):
    with pytest.raises(UsageError, match=says):
        parse(*argv)


@pytest.mark.parametrize("text", ["stages: 3", "nothing: here", "stages: [{id: 0}]", "stages: []", "a: [b"])
def test_a_stage_config_of_another_form_is_refused(tmp_path, text):
    file = tmp_path / "stages.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match="--stage-config"):
        parse("--stage-config", str(file))


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


@pytest.mark.parametrize(
    ("model", "says"),
    [
        pytest.param("builtin://letters", "builtin://digits", id="an unknown built-in model"),
        pytest.param("./nope", "no such folder", id="a folder that is not there"),
        pytest.param("hf://nobody", "hf://org/name", id="half a name on the hub"),
        pytest.param("s3://bucket/model", "unknown kind of source 's3'", id="an unknown kind of source"),
        pytest.param("{tmp}", "neither model_index.json nor config.json", id="a folder that is no model"),
    ],
)
def test_a_model_that_is_nowhere_is_refused(model, says, tmp_path):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(UsageError, match=says):
        from_arguments(parser.parse_args([model.format(tmp=tmp_path)]))
