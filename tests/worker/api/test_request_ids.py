"""Request ids: the head makes its own; the client's `X-Request-Id` is echoed, logged and listed, and nothing else."""

import asyncio
import json
import logging

import pytest

from tests.worker.api.in_process import PAINTER, Head
from tests.worker.orchestrator.replica_servers import eventually

URL, BODY = "/v1/images/generations", {"prompt": "a red three"}


def run_together(*requests):
    """Send requests, given as (X-Request-Id, n), at one time. Returns the head, their responses, and what it listed."""

    async def send():
        head = Head([PAINTER])
        (replica,) = head.replicas
        replica.gate.clear()
        async with head.async_client() as client:
            tasks = [
                asyncio.create_task(client.post(URL, json=BODY | {"n": n}, headers={"X-Request-Id": id} if id else {}))
                for id, n in requests
            ]
            await eventually(
                lambda: len(replica.ids) == sum(n for _, n in requests) or any(one.done() for one in tasks)
            )
            listed = (await client.get("/omni/requests")).json()["requests"]
            replica.gate.set()
            return head, await asyncio.gather(*tasks), listed

    return asyncio.run(asyncio.wait_for(send(), 30))


@pytest.mark.parametrize(
    "requests",
    [
        pytest.param([("4bf92f35-77b3", 1)] * 3, id="one id for several requests"),
        pytest.param([("a", 2), ("a-1", 1), ("a-0", 2)], id="ids that look like those of an n"),
        pytest.param([("req-1#0", 1), ("video_1", 1), ("req-1", 3)], id="ids that look like ours"),
        pytest.param([(None, 1), (None, 2)], id="no ids"),
    ],
)
def test_requests_run_whatever_their_clients_call_them(requests):
    head, responses, listed = run_together(*requests)
    assert [response.status_code for response in responses] == [200] * len(requests)
    ids = [one.partition("#")[0] for one in head.replicas[0].ids]
    assert len(set(ids)) == len(ids) == sum(n for _, n in requests)
    assert all(id.startswith("req-") for id in ids)
    assert sorted(one["id"] for one in listed) == sorted(ids)
    assert [one["client_id"] for one in listed] == [id for id, n in requests for _ in range(n)]
    for (sent, _), response in zip(requests, responses, strict=True):
        echoed = response.headers["x-request-id"]
        assert echoed == sent if sent else any(id.startswith(echoed) for id in ids)


@pytest.mark.parametrize("sent", ["x" * 129, "tab\there", "", "é".encode("latin-1")])
def test_an_id_that_is_not_valid_is_replaced(sent):
    _, (response,), listed = run_together((sent, 1))
    assert response.status_code == 200
    assert response.headers["x-request-id"].startswith("req-")
    assert listed[0]["client_id"] is None


def test_both_ids_are_logged(caplog):
    with caplog.at_level(logging.INFO, "omni_worker.requests"):
        run_together(("theirs", 1))
    (line,) = [json.loads(record.message) for record in caplog.records if record.name == "omni_worker.requests"]
    assert line["client_id"] == "theirs"
    assert line["id"].startswith("req-")


def test_a_conversations_id_is_ours():
    async def send():
        head = Head([PAINTER])
        async with head.async_client() as client:
            body = {"messages": [{"role": "user", "content": "a red three"}]}
            return await client.post("/v1/chat/completions", json=body, headers={"X-Request-Id": "theirs"})

    response = asyncio.run(send())
    assert response.headers["x-request-id"] == "theirs"
    assert response.json()["id"].startswith("chatcmpl-req-")
