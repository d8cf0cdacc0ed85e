"""The topology of a head, as the operator reads it."""

import time

from omni_operator.controller.heads.head_api import parse_topology
from tests.worker.api.in_process import PAINTER, WRITER, Head, client_of


def test_the_operator_reads_which_stages_refuse_replicas():
    head = Head([WRITER, PAINTER])

    def refusing(client):
        stages = parse_topology(client.get("/v1/omni/topology").content).stages
        return [stage.name for stage in stages if stage.refuses_replicas]

    with client_of(head) as client:
        assert refusing(client) == []
        head.orchestrator.pools[1].refused_at = time.monotonic()
        assert refusing(client) == ["stage-1"]
