"""Stages that are servers outside the pipeline: no pods, the key only in the head, and what the status says."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from omni_operator.crd.manifest_file import ManifestError
from omni_operator.crd.parsing import parse
from omni_operator.local.local_manifest import take_endpoint_keys
from omni_operator.planning.manifests import children
from omni_operator.planning.manifests.pod import Surroundings
from omni_operator.planning.observed import ObservedEndpoint
from omni_operator.planning.topology.cluster import cluster_topology
from omni_worker.config.stages import read_stages
from tests.operator.crd.manifest_parts import EXTERNAL
from tests.operator.edits import edited
from tests.operator.planning.observations import UP, conditions, observed, status_of
from tests.operator.planning.topology.layouts import flag, locally

WITH_KEY = {
    **EXTERNAL,
    "endpoint": {**EXTERNAL["endpoint"], "apiKeySecretRef": {"name": "vllm", "key": "k"}, "timeoutSeconds": 20},
}
PAINTER = {"name": "painter", "engine": "diffusion"}


@pytest.fixture
def external(digits: dict[str, Any]) -> dict[str, Any]:
    return edited(digits, {"spec.stages": [WITH_KEY, PAINTER], "spec.head": {}})


def test_such_a_stage_has_no_process_and_the_others_keep_theirs(external: dict[str, Any]) -> None:
    topology = cluster_topology(parse(external))
    assert [process.name for process in topology.replicas] == ["digits-painter"]
    assert {process.stage.name for process in locally(external).replicas} == {"painter"}
    alone = cluster_topology(parse(edited(external, {"spec.stages": [PAINTER]})))
    assert topology.replicas[0].arguments == alone.replicas[0].arguments
    assert topology.stages_without_replicas == ()
    assert flag(topology.head, "--stage-id") == "0"
    assert topology.head.drain_seconds == 20 + 300


def test_replicas_inside_the_head_are_those_of_the_first_stage_that_has_some(external: dict[str, Any]) -> None:
    topology = cluster_topology(parse(edited(external, {"spec.head.localReplicas": 1})))
    assert topology.head.stage.name == "painter"
    assert flag(topology.head, "--omni-dp-size-local") == "1"


def test_a_scaler_of_the_pipeline_never_counts_such_a_stage(external: dict[str, Any]) -> None:
    thinker = {"name": "thinker", "engine": "autoregressive"}
    last = parse(edited(external, {"spec.stages": [thinker, WITH_KEY]})).scaled_stage
    assert last is not None
    assert last.name == "thinker"
    assert parse(edited(external, {"spec.stages": [EXTERNAL]})).scaled_stage is None


@pytest.mark.parametrize("where", ["cluster", "here"])
def test_the_worker_understands_what_the_file_says_of_the_server(
    external: dict[str, Any], tmp_path: Path, where: str
) -> None:
    topology = cluster_topology(parse(external)) if where == "cluster" else locally(external)
    file = tmp_path / "stages.json"
    file.write_text(topology.stage_config)
    endpoint = read_stages(str(file))[0].endpoint
    assert endpoint is not None
    assert (endpoint.url, endpoint.model, endpoint.timeout_seconds) == ("http://vllm:8000/v1", "qwen", 20)
    folder = "/etc/omnipipeline-endpoints" if where == "cluster" else "/run/digits"
    assert endpoint.api_key_file == f"{folder}/endpoint-key-rewriter"


def pods(manifest: dict[str, Any]) -> dict[str, Any]:
    pipeline = parse(manifest)
    objects = children(pipeline, cluster_topology(pipeline), Surroundings("worker:1"), "keys")
    return {one["metadata"]["name"]: one["spec"]["template"] for one in objects if one["kind"] == "Deployment"}


def test_only_the_head_gets_the_key(external: dict[str, Any]) -> None:
    made = pods(external)
    assert made.keys() == {"digits-head", "digits-painter"}
    (volume,) = [one for one in made["digits-head"]["spec"]["volumes"] if one["name"] == "endpoint-keys"]
    source = {"name": "vllm", "items": [{"key": "k", "path": "endpoint-key-rewriter"}]}
    assert volume["projected"] == {"defaultMode": 0o440, "sources": [{"secret": source}]}
    (mount,) = [
        one for one in made["digits-head"]["spec"]["containers"][0]["volumeMounts"] if one["name"] == "endpoint-keys"
    ]
    assert (mount["mountPath"], mount["readOnly"]) == ("/etc/omnipipeline-endpoints", True)
    assert "vllm" not in json.dumps(made["digits-painter"])


def test_a_server_without_a_key_needs_no_volume(external: dict[str, Any]) -> None:
    assert "endpoint-keys" not in json.dumps(pods(edited(external, {"spec.stages.0": EXTERNAL})))


def test_the_head_restarts_for_another_server_and_the_painters_do_not(external: dict[str, Any]) -> None:
    before, after = pods(external), pods(edited(external, {"spec.stages.0.endpoint.model": "other"}))
    assert before["digits-head"] != after["digits-head"]
    assert before["digits-painter"] == after["digits-painter"]


STATES: dict[str, tuple[ObservedEndpoint | None, str, tuple[str, str], tuple[str, str]]] = {
    "not heard of": (None, "Unknown", ("True", "Serving"), ("False", "AsExpected")),
    "not checked yet": (ObservedEndpoint(False), "Unknown", ("True", "Serving"), ("False", "AsExpected")),
    "up": (ObservedEndpoint(True), "Up", ("True", "Serving"), ("False", "AsExpected")),
    "up, of another model": (
        ObservedEndpoint(True, "no model qwen"), "Up", ("True", "Serving"), ("True", "EndpointProblem"),
    ),
    "down": (ObservedEndpoint(False, "refused"), "Down", ("False", "EndpointDown"), ("True", "EndpointDown")),
}  # fmt: skip


@pytest.mark.parametrize("row", STATES)
def test_the_status_says_whether_the_server_answers(external: dict[str, Any], row: str) -> None:
    found, shown, ready, degraded = STATES[row]
    manifest = edited(external, {"spec.stages.1.replicas": 1})
    seen = replace(observed(UP, UP, []), endpoints={"rewriter": found} if found else {})
    status = status_of(manifest, seen)
    rewriter, painter = status["stages"]
    assert (rewriter["name"], rewriter["endpoint"], rewriter["desired"]) == ("rewriter", shown, 0)
    assert rewriter.get("message") == (found.problem if found else None)
    assert (painter["name"], painter["ready"], "endpoint" in painter) == ("painter", 1, False)
    by_type = conditions(status)
    for kind, (value, reason) in {"Ready": ready, "Degraded": degraded}.items():
        assert (by_type[kind]["status"], by_type[kind]["reason"]) == (value, reason)
    if found and found.problem and not found.is_up:
        assert by_type["Ready"]["message"] == f"painter 1/1 ready; {found.problem}"


def test_a_key_is_taken_out_of_the_environment_into_a_file_for_the_head(external: dict[str, Any]) -> None:
    stage = {**WITH_KEY, "name": "re-writer"}
    environment = {"OMNI_ENDPOINT_KEY_RE_WRITER": "secret", "PATH": "/bin"}
    keys = take_endpoint_keys(parse(edited(external, {"spec.stages.0": stage})), environment)
    assert keys == {"endpoint-key-re-writer": "secret"}
    assert environment == {"PATH": "/bin"}


def test_a_missing_key_names_the_variable(external: dict[str, Any]) -> None:
    with pytest.raises(ManifestError, match=r"endpoint\.apiKeySecretRef: .* set OMNI_ENDPOINT_KEY_REWRITER"):
        take_endpoint_keys(parse(external), {})
