"""`omni status`: what it prints of a pipeline that is ready, of one that is not, and of other servers."""

import json
from http.server import SimpleHTTPRequestHandler

import pytest

from omni_operator.client.endpoint import EndpointNotFound
from omni_operator.client.errors import RequestFailed
from tests.loopback import Loopback
from tests.operator.commands.conftest import Omni
from tests.operator.commands.stand_in_head import PAINTER, THINKER, StandInHead, replica, running, stage

STATUS = "omni_operator.commands.status"


def test_status_has_a_line_for_each_replica(head: StandInHead, omni: Omni) -> None:
    head.stages = [stage(THINKER, replica("thinker-0", running=3)), stage(PAINTER, replica("painter-0"))]
    head.requests = [running("a")]
    code, text = omni(STATUS, "--url", head.url)
    first, header, *lines = text.splitlines()
    assert code == 0
    assert first == "digits: ready; 1 request under way"
    assert header.split()[:4] == ["STAGE", "MODEL", "REPLICA", "STATE"]
    assert [line.split()[:6] for line in lines] == [
        ["thinker", "Qwen3ForCausalLM", "thinker-0", "UP", "here", "3"],
        ["painter", "QwenImagePipeline", "painter-0", "UP", "here", "0"],
    ]


def test_status_says_which_replicas_have_which_adapter(head: StandInHead, omni: Omni) -> None:
    loras = [{"name": "ink", "loaded": 1, "reason": None}, {"name": "oil", "loaded": 0, "reason": "there is no file"}]
    head.stages = [{**stage(PAINTER, replica("painter-0", loras=["ink"]), replica("painter-1")), "loras": loras}]
    _, text = omni(STATUS, "--url", head.url)
    header, ink, oil = (line.split() for line in text.splitlines()[-3:])
    assert header == ["STAGE", "LORA", "REPLICAS", "PROBLEM"]
    assert ink[:3] == ["painter", "ink", "painter-0"]
    assert oil[-4:] == ["there", "is", "no", "file"]


def test_status_says_which_server_a_stage_is(head: StandInHead, omni: Omni) -> None:
    endpoint = {"url": "http://vllm:8000/v1", "model": "qwen", "problem": "it\x1b[31m answered 401"}
    server = {"name": "rewriter", "engine": "openai", "task": None, "pipeline": "qwen", "endpoint": endpoint}
    head.stages = [stage(server, replica("rewriter-0", state="ERROR")), stage(PAINTER, replica("painter-0"))]
    _, text = omni(STATUS, "--url", head.url)
    header, row = (line.split() for line in text.splitlines()[-2:])
    assert header == ["STAGE", "SERVER", "MODEL", "PROBLEM"]
    assert row[:3] == ["rewriter", "http://vllm:8000/v1", "qwen"]
    assert row[-2:] == ["answered", "401"]
    assert "\x1b" not in text


def test_status_of_a_pipeline_that_is_not_ready_says_why_and_fails(head: StandInHead, omni: Omni) -> None:
    head.not_ready = "no replica is up for: painter"
    head.stages = [stage(PAINTER)]
    code, text = omni(STATUS, "--url", head.url)
    assert code == 1
    assert "not ready: no replica is up for: painter" in text
    assert "no replica" in text.splitlines()[-1]


@pytest.mark.parametrize(("state", "expected"), [("ERROR", 1), ("DRAINING", 0), ("STARTING", 0)])
def test_status_fails_where_a_replica_is_down(head: StandInHead, omni: Omni, state: str, expected: int) -> None:
    head.stages = [stage(PAINTER, replica("painter-0"), replica("painter-1", state=state))]
    code, _ = omni(STATUS, "--url", head.url)
    assert code == expected


def test_a_host_that_does_not_exist_is_named(omni: Omni) -> None:
    with pytest.raises(RequestFailed, match=r"the host no-such-host\.invalid of .* cannot be resolved"):
        omni(STATUS, "http://no-such-host.invalid")


def test_a_proxy_that_does_not_answer_is_named_without_its_password(
    omni: Omni, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://user:secret@127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(RequestFailed, match=r"the proxy 127.0.0.1:9 does not lead to http://digits.test .*NO_PROXY"):
        omni(STATUS, "http://digits.test")


def test_status_as_json_is_what_the_head_reports(head: StandInHead, omni: Omni) -> None:
    code, text = omni(STATUS, "--url", head.url, "--output", "json")
    output = json.loads(text)
    assert (code, output["is_ready"], output["reason"]) == (0, True, None)
    assert output["stages"][0]["replicas"][0]["step_ms"] == 12.5


def test_status_of_an_address_without_a_server(omni: Omni) -> None:
    with pytest.raises(RequestFailed, match="nothing answers at"):
        omni(STATUS, "--url", "http://127.0.0.1:1")
    with pytest.raises(EndpointNotFound, match="is not an address"):
        omni(STATUS, "--url", "digits")


def test_status_of_a_server_that_is_no_pipeline(omni: Omni) -> None:
    server = Loopback(SimpleHTTPRequestHandler)  # it serves files, and has no probes
    try:
        with pytest.raises(RequestFailed, match="does not answer like a pipeline; is the address right"):
            omni(STATUS, "--url", server.url)
    finally:
        server.close()
