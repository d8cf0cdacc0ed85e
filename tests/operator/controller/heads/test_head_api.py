"""What the operator reads from a head's topology, and what it does with an answer that is not one."""

import gzip
import json
from collections.abc import Iterable, Iterator
from itertools import chain, repeat
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes.client import Configuration

from omni_operator.controller.heads import head_api
from omni_operator.controller.heads.head_api import (
    MAX_BYTES,
    HeadError,
    HeadState,
    head_state,
    parse_topology,
    requests_by_pod,
    stage_loads,
)
from omni_operator.crd.parsing import parse
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.kube.client import Cluster
from omni_operator.kube.connection import Connection
from omni_operator.planning.autoscale import StageLoad
from omni_operator.planning.observed import ObservedEndpoint, ObservedLora
from tests.operator.controller.heads.raw_server import RawServer
from tests.operator.edits import edited


@pytest.fixture
def pipeline(digits: dict[str, Any]) -> OmniPipeline:
    return parse(edited(digits, {"spec.head.localReplicas": 2}))


INSIDE: Any = SimpleNamespace(is_inside=True)
"""A cluster whose heads are asked without the API server, at the address of `head`."""


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[RawServer]:
    server = RawServer(lambda: [])
    monkeypatch.setattr(head_api, "api_url", lambda pipeline: server.url)
    yield server
    server.close()


def answering(head: RawServer, answer: Any) -> Any:
    """A cluster whose heads give this answer."""
    head.answer = lambda: [http(json.dumps(answer).encode())]
    return INSIDE


def outside(head: RawServer) -> Any:
    """A cluster whose API server forwards requests to `head`."""
    configuration = Configuration(proxy="", no_proxy="")
    configuration.host, configuration.api_key = head.url, {"BearerToken": "Bearer token"}
    cluster = Cluster.__new__(Cluster)
    cluster.is_inside, cluster.connection = False, Connection(configuration, connections=1)
    return cluster


def http(body: bytes, kind: str = "application/json", *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def replica(address: str, state: str, host: str = "a", running: int = 0) -> dict[str, Any]:
    counts = {"in_flight": 1, "queue_length": 1, "running": running, "capacity": 4}
    return {"address": f"tcp://{address}:9100", "state": state, "host": host, "step_ms": 0.5, **counts}


def stage(name: str, *replicas: Any, requests: Any = 9) -> dict[str, Any]:
    return {"name": name, "requests": requests, "model": None, "replicas": list(replicas)}


def topology(*stages: Any, requests: Any = 12) -> dict[str, Any]:
    return {"model": "digits", "requests": requests, "stages": list(stages)}


def test_only_what_serves_at_the_heads_own_loopback_counts(head: RawServer, pipeline: OmniPipeline) -> None:
    replicas = [replica("127.0.0.1", "UP"), replica("127.0.0.1", "ERROR"), replica("10.244.0.7", "UP")]
    replicas += [replica("[::1]", "UP"), replica("[fd00::1]", "UP"), replica("[", "UP")]
    answer = topology(stage("painter", *replicas), stage("other", replica("127.0.0.1", "UP")))
    assert head_state(answering(head, answer), pipeline) == HeadState(3)
    with pytest.raises(HeadError, match="malformed"):
        head_state(answering(head, {"detail": "not found"}), pipeline)


def test_the_stages_whose_replicas_the_head_refuses_are_named(head: RawServer, pipeline: OmniPipeline) -> None:
    answer = topology({**stage("painter"), "refuses_replicas": True}, {**stage("other"), "refuses_replicas": False})
    assert head_state(answering(head, answer), pipeline) == HeadState(0, frozenset({"painter"}))


def test_the_adapters_of_each_stage_are_read_as_plain_text(head: RawServer, pipeline: OmniPipeline) -> None:
    loras = [{"name": "ink", "loaded": 2, "reason": None}, {"name": "oil", "loaded": 0, "reason": "no\x1b[31m file"}]
    answer = topology({**stage("painter"), "loras": loras}, stage("other"))
    assert head_state(answering(head, answer), pipeline).loras == {
        "painter": (ObservedLora("ink", 2), ObservedLora("oil", 0, "no?[31m file"))
    }


def test_a_server_that_is_a_stage_is_no_replica_of_the_head(head: RawServer, pipeline: OmniPipeline) -> None:
    def server(name: str, state: str, problem: str | None) -> dict[str, Any]:
        replica = {"host": "h", "state": state, "address": "http://127.0.0.1:8000/v1"}
        return {"name": name, "requests": 0, "replicas": [replica], "endpoint": {"url": "u", "problem": problem}}

    answer = topology(server("up", "UP", None), server("down", "ERROR", "no\x1b"), stage("painter"))
    state = head_state(answering(head, answer), pipeline)
    assert state.serving == head_state(answering(head, topology(stage("painter"))), pipeline).serving
    assert state.endpoints == {"up": ObservedEndpoint(True), "down": ObservedEndpoint(False, "no?")}


def test_the_load_of_a_stage_counts_the_replicas_that_serve(head: RawServer, pipeline: OmniPipeline) -> None:
    replicas = [replica("10.0.0.1", state, running=3) for state in ("UP", "DRAINING", "ERROR")]
    answer = topology(stage("painter", *replicas), stage("unknown"))
    assert stage_loads(answering(head, answer), pipeline) == {
        "painter": StageLoad(requests=9, requests_in_pipeline=12, running=6, capacity=4, serving=1)
    }


def test_the_requests_of_a_pod_are_those_of_its_replicas(head: RawServer, pipeline: OmniPipeline) -> None:
    replicas = [replica("10.0.0.1", "UP", "a", 2), replica("10.0.0.1", "UP", "a", 0), replica("10.0.0.2", "UP", "b", 5)]
    answer = topology(stage("painter", *replicas), stage("other"))
    assert requests_by_pod(answering(head, answer), pipeline, "painter") == {"a": 4, "b": 6}


def test_a_head_of_another_version_may_leave_out_what_a_reader_can_do_without(
    head: RawServer, pipeline: OmniPipeline
) -> None:
    cluster = answering(head, topology(stage("painter", {"host": "a", "state": "UP", "running": 2})))
    assert requests_by_pod(cluster, pipeline, "painter") == {"a": 2}
    assert head_state(cluster, pipeline) == HeadState(0)
    assert stage_loads(cluster, pipeline)["painter"].capacity == 1


def test_inside_the_cluster_the_request_carries_no_credentials(head: RawServer, pipeline: OmniPipeline) -> None:
    stage_loads(answering(head, topology()), pipeline)
    (request,) = head.requests
    assert request.startswith(b"GET /v1/omni/topology HTTP/1.1\r\n")
    assert b"authorization" not in request.lower()


def test_outside_the_cluster_the_api_server_forwards_the_request(head: RawServer, pipeline: OmniPipeline) -> None:
    answering(head, topology(stage("painter", requests=7)))
    assert stage_loads(outside(head), pipeline)["painter"].requests == 7
    (request,) = head.requests
    path = f"/api/v1/namespaces/{pipeline.namespace}/services/{pipeline.name}:http/proxy/v1/omni/topology"
    assert request.startswith(f"GET {path} HTTP/1.1\r\n".encode())
    assert b"authorization: Bearer token\r\n" in request


# ---- answers with a wrong content. Each is a JSON text, with a part of the message.

WRONG: dict[str, tuple[str, str]] = {
    "no object": ("[]", "got `array`"),
    "nothing": ("", "truncated"),
    "a page": ("<html>", "malformed"),
    "an infinite count": ('{"requests": Infinity, "stages": []}', "invalid character"),
    "a count that is not a number": ('{"requests": NaN, "stages": []}', "invalid character"),
    "a count beyond all floats": ('{"requests": 1e999, "stages": []}', "out of range"),
    "a count of 5,000 digits": (f'{{"requests": {"9" * 5000}, "stages": []}}', "requests"),
    "a negative count": ('{"requests": -1, "stages": []}', ">= 0"),
    "a fraction": ('{"requests": 0.5, "stages": []}', "got `float`"),
    "a count as text": ('{"requests": "7", "stages": []}', "got `str`"),
    "a truth value": ('{"requests": true, "stages": []}', "got `bool`"),
    "a stage twice": (json.dumps(topology(stage("painter"), stage("painter"))), "the same name"),
    "a stage without a name": (json.dumps(topology({"requests": 1, "replicas": []})), "`name`"),
    "stages as an object": ('{"requests": 1, "stages": {}}', "got `object`"),
    "too many stages": (json.dumps(topology(*(stage(str(number)) for number in range(300)))), "length <= 256"),
    "a name of a megabyte": (json.dumps(topology(stage("x" * 2**20))), "length <= 256"),
    "a replica that is null": (json.dumps(topology(stage("painter", None))), "got `null`"),
    "nesting that never ends": ('{"x": ' + "[" * 200_000, "recursion"),
    "nesting in a key that nobody reads": ('{"x": ' + "[" * 200_000 + "]" * 200_000 + "}", "recursion"),
}


@pytest.mark.parametrize("row", WRONG)
def test_a_wrong_answer_is_the_heads_error(head: RawServer, pipeline: OmniPipeline, row: str) -> None:
    text, words = WRONG[row]
    head.answer = lambda: [http(text.encode())]
    with pytest.raises(HeadError) as raised:
        stage_loads(INSIDE, pipeline)
    assert words in str(raised.value)
    assert len(str(raised.value)) < 500, "it fits into a status"


@pytest.mark.parametrize(
    "content", [b"\xff\xfe{}", b"\xef\xbb\xbf{}", b'{"requests": 1, "stages": []} x', b"\x00" * 99]
)
def test_bytes_that_are_not_json_are_the_heads_error(content: bytes) -> None:
    with pytest.raises(HeadError, match="malformed"):
        parse_topology(content)


# ---- answers that are not HTTP, or never end. Each: pieces, seconds between them, a part of the message.

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
BOMB = gzip.compress(b" " * 2**24)


def drip(start: bytes, piece: bytes = b" ") -> Iterable[bytes]:
    return chain([start], repeat(piece))


HOSTILE: dict[str, tuple[Any, float, str]] = {
    "no answer": (lambda: [], 0, "closed connection"),
    "silence": (lambda: repeat(b""), 0.05, "within"),
    "no HTTP": (lambda: [b"SSH-2.0-OpenSSH_9.9\r\n"], 0, "SSH"),
    "a status line with escape sequences": (lambda: [b"\x1b[2J\x1b]0;pwned\x07\r\n\r\n"], 0, "?[2J"),
    "a body that drips": (lambda: drip(OK + b"Content-Length: 1000\r\n\r\n"), 0.05, "within"),
    "headers that drip": (lambda: drip(b"HTTP/1.1 200 OK\r\nX-Slow: "), 0.05, "within"),
    "a status line that drips": (lambda: drip(b"HTTP/1.1 2", b"0"), 0.05, "within"),
    "headers without an end": (lambda: drip(b"HTTP/1.1 200 OK\r\n", b"X-More: 1\r\n"), 0, "100 headers"),
    "a header without an end": (lambda: drip(b"HTTP/1.1 200 OK\r\nX-Long: ", b"x" * 4096), 0, "header line"),
    "interim answers without an end": (lambda: repeat(b"HTTP/1.1 100 Continue\r\n\r\n" * 500), 0, "too long"),
    "a body without an end": (lambda: drip(OK + b"\r\n", b" " * 65536), 0, "more than"),
    "a body that says it is huge": (lambda: [OK + b"Content-Length: 999999999999\r\n\r\n{}"], 0, "999999999999 bytes"),
    "a body that breaks off": (lambda: [OK + b"Content-Length: 100\r\n\r\n{}"], 0, "bytes early"),
    "chunks without an end": (lambda: drip(CHUNKED, b"10000\r\n" + b" " * 65536 + b"\r\n"), 0, "more than"),
    "a chunk that says it is huge": (lambda: drip(CHUNKED + b"fffffffffff\r\n", b" " * 65536), 0, "more than"),
    "a chunk of a negative size": (lambda: [CHUNKED + b"-2\r\n{}\r\n0\r\n\r\n"], 0, ""),
    "a chunk that is none": (lambda: [CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n"], 0, "IncompleteRead"),
    "trailers without an end": (lambda: drip(CHUNKED + b"2\r\n{}\r\n0\r\n", b"X: 1\r\n" * 99), 0, "too long"),
    "a redirect": (lambda: [http(b"", status="302 Found") + b"Location: http://169.254.169.254/\r\n"], 0, "302"),
    "an error": (lambda: [http(b"{}", status="500 Oops")], 0, "500"),
    "no content": (lambda: [b"HTTP/1.1 204 No Content\r\n\r\n"], 0, "204"),
    "HTML": (lambda: [http(b"{}", "text/html")], 0, "text/html"),
    "no content type": (lambda: [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"], 0, "text/plain"),
    "a compressed bomb": (lambda: [http(BOMB, "application/json", "Content-Encoding: gzip")], 0, "gzip"),
}


def answer_with(head: RawServer, monkeypatch: pytest.MonkeyPatch, row: str) -> str:
    """Let the head answer as in a row of HOSTILE. Returns the words that the error has."""
    head.answer, head.pause, words = HOSTILE[row]
    if head.pause:
        monkeypatch.setattr(head_api, "TIMEOUT_SECONDS", 0.5)
    return words


@pytest.mark.parametrize("row", HOSTILE)
def test_a_hostile_answer_is_the_heads_error(
    head: RawServer, pipeline: OmniPipeline, monkeypatch: pytest.MonkeyPatch, row: str
) -> None:
    words = answer_with(head, monkeypatch, row)
    with pytest.raises(HeadError) as raised:
        stage_loads(INSIDE, pipeline)
    assert words in str(raised.value)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("row", ["silence", "a body that drips", "a body without an end", "a redirect", "HTML"])
def test_a_hostile_answer_through_the_api_server_is_the_heads_error(
    head: RawServer, pipeline: OmniPipeline, monkeypatch: pytest.MonkeyPatch, row: str
) -> None:
    answer_with(head, monkeypatch, row)
    with pytest.raises(HeadError):
        stage_loads(outside(head), pipeline)


def test_a_reset_and_a_closed_port_are_the_heads_error(head: RawServer, pipeline: OmniPipeline) -> None:
    head.answer, head.is_reset = lambda: [OK], True
    with pytest.raises(HeadError, match="reset"):
        stage_loads(INSIDE, pipeline)
    head.close()
    with pytest.raises(HeadError, match="refused"):
        stage_loads(INSIDE, pipeline)


def test_a_large_answer_of_many_replicas_is_read(head: RawServer, pipeline: OmniPipeline) -> None:
    replicas = [replica(f"10.0.{number // 250}.{number % 250}", "UP", running=1) for number in range(5000)]
    answer = topology(stage("painter", *replicas))
    assert MAX_BYTES / 4 < len(json.dumps(answer)) < MAX_BYTES
    assert stage_loads(answering(head, answer), pipeline)["painter"].running == 5000
