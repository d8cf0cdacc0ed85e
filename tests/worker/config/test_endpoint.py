"""A stage that is a server, in the file of --stage-config."""

import json
from typing import Any

import pytest

from omni_worker.config.endpoint import Endpoint
from omni_worker.errors import UsageError

from .command_lines import parse

SERVER = {"url": "http://vllm:8000/v1", "model": "qwen"}


def config_of(tmp_path, *stages: dict[str, Any], flags=("--omni-dp-size-local", "0")):
    file = tmp_path / "stages.json"
    file.write_text(json.dumps({"stages": [{"id": n, "name": f"s{n}", **stage} for n, stage in enumerate(stages)]}))
    return parse("--stage-config", str(file), *flags)


def test_a_server_has_its_settings_and_no_model(tmp_path):
    rewriter = {"engine": "openai", "endpoint": SERVER | {"timeout_seconds": 5, "retries": 0, "api_key_file": "/k"}}
    head = config_of(tmp_path, rewriter, {"engine": "diffusion"}).head
    assert head.stages[0].endpoint == Endpoint("http://vllm:8000/v1", "qwen", "/k", 5, 0)
    assert head.stages[0].writes
    assert list(head.models) == [1]


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ({"engine": "openai"}, "no endpoint"),
        ({"engine": "diffusion", "endpoint": SERVER}, "for the engine openai"),
        ({"engine": "openai", "endpoint": 3}, "endpoint: Expected `object`"),
        ({"engine": "openai", "endpoint": {"url": "http://a/v1"}}, "missing required field `model`"),
        ({"engine": "openai", "endpoint": SERVER | {"tiemout": 3}}, "no field tiemout; it has url, model"),
        ({"engine": "openai", "endpoint": SERVER | {"model": ""}}, "endpoint.model"),
        ({"engine": "openai", "endpoint": SERVER | {"retries": 11}}, "endpoint.retries"),
        ({"engine": "openai", "endpoint": SERVER | {"timeout_seconds": 0}}, "endpoint.timeout_seconds"),
        ({"engine": "openai", "endpoint": SERVER, "task": "encode"}, "task"),
        ({"engine": "openai", "endpoint": SERVER, "model": "hf://a/b"}, "model"),
        ({"engine": "openai", "endpoint": SERVER, "input": "hidden-states"}, "hidden-states"),
        *(
            ({"engine": "openai", "endpoint": SERVER | {"url": url}}, "endpoint.url")
            for url in ("", "vllm:8000", "ftp://a/", "http://", "http://a:99999/", "http://a/?key=1", "http://u:p@a/",
                        "http://a/ b", "http://a/#x")
        ),
    ],
)  # fmt: skip
def test_another_form_is_refused_by_name(tmp_path, stage, said):
    with pytest.raises(UsageError, match="--stage-config") as refusal:
        config_of(tmp_path, stage)
    assert said in str(refusal.value)


def test_no_stage_takes_hidden_states_from_a_server(tmp_path):
    with pytest.raises(UsageError, match="hidden-states"):
        config_of(tmp_path, {"engine": "openai", "endpoint": SERVER}, {"engine": "diffusion", "input": "hidden-states"})


def test_a_server_has_no_replicas_here(tmp_path):
    with pytest.raises(UsageError, match="--omni-dp-size-local 0"):
        config_of(tmp_path, {"engine": "openai", "endpoint": SERVER}, flags=())
