"""What the operator reads from a head's topology, and what it does with an answer that is not one."""

from typing import Any

import pytest

from omni_operator.controller.heads.head_api import HeadError, requests_by_pod, serving_in_head, stage_loads
from omni_operator.crd.parsing import parse
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.planning.autoscale import StageLoad
from tests.operator.edits import edited


@pytest.fixture
def pipeline(digits: dict[str, Any]) -> OmniPipeline:
    return parse(edited(digits, {"spec.head.localReplicas": 2}))


class Proxy:
    """An API server that forwards requests to a head, which always gives the same answer."""

    is_inside = False

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def get_from_service(self, *request: Any) -> Any:
        return self.answer


def replica(address: str, state: str, host: str = "a", running: int = 0) -> dict[str, Any]:
    counts = {"in_flight": 1, "queue_length": 1, "running": running, "capacity": 4}
    return {"address": f"tcp://{address}:9100", "state": state, "host": host, **counts}


def test_only_what_serves_at_the_heads_own_loopback_counts(pipeline: OmniPipeline) -> None:
    replicas = [replica("127.0.0.1", "UP"), replica("127.0.0.1", "ERROR"), replica("10.244.0.7", "UP")]
    proxy: Any = Proxy({"stages": [{"replicas": replicas}, {"replicas": [replica("127.0.0.1", "UP")]}]})
    assert serving_in_head(proxy, pipeline) == 2
    other: Any = Proxy({"detail": "not found"})
    with pytest.raises(HeadError, match="not understood"):
        serving_in_head(other, pipeline)


def test_the_load_of_a_stage_counts_the_replicas_that_serve(pipeline: OmniPipeline) -> None:
    replicas = [replica("10.0.0.1", state, running=3) for state in ("UP", "DRAINING", "ERROR")]
    stages = [{"name": "painter", "requests": 9, "replicas": replicas}, {"name": "unknown"}]
    proxy: Any = Proxy({"requests": 12, "stages": stages})
    assert stage_loads(proxy, pipeline) == {
        "painter": StageLoad(requests=9, requests_in_pipeline=12, running=6, capacity=4)
    }


def test_the_requests_of_a_pod_are_those_of_its_replicas(pipeline: OmniPipeline) -> None:
    replicas = [replica("10.0.0.1", "UP", "a", 2), replica("10.0.0.1", "UP", "a", 0), replica("10.0.0.2", "UP", "b", 5)]
    proxy: Any = Proxy({"stages": [{"name": "painter", "replicas": replicas}, {"name": "other", "replicas": []}]})
    assert requests_by_pod(proxy, pipeline, "painter") == {"a": 4, "b": 6}
