"""kopf's way to the API server: no error of a watch ends it, and everything else comes through as it is."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web

from omni_operator.controller.kopf_session import kopf_session
from omni_operator.kube.connection import Connection

ADDED = {"type": "ADDED", "object": {"metadata": {"name": "digits", "annotations": {"long": "x" * 300_000}}}}
MODIFIED = {"type": "MODIFIED", "object": {"metadata": {"name": "digits"}}}
BROKEN = {"type": "ERROR", "object": {"kind": "Status", "reason": "InternalError", "code": 500}}
TOO_OLD = {"type": "ERROR", "object": {"kind": "Status", "reason": "Expired", "code": 410}}


async def answered(path: str, status: int, *lines: Any) -> tuple[int, list[Any]]:
    """The status and the lines that kopf reads, where a server answers so to those with the right credentials."""

    async def answer(request: web.Request) -> web.StreamResponse:
        assert request.headers["authorization"] == "Bearer me"
        response = web.StreamResponse(status=status)
        await response.prepare(request)
        for line in lines:
            await response.write(json.dumps(line).encode() + b"\n")
        return response

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    credentials = {"authorization": "Bearer me"}
    connection = SimpleNamespace(url=site.name, proxy=None, tls_context=lambda: True, credentials=lambda: credentials)
    info = kopf_session(cast(Connection, connection))
    try:
        async with info.aiohttp_session as session, session.get(f"{info.server}{path}") as response:
            content = b"".join([chunk async for chunk in response.content.iter_chunked(1000)])
            return response.status, [json.loads(line) for line in content.splitlines()]
    finally:
        await runner.cleanup()


WATCHES = {
    "events": (200, [ADDED, MODIFIED, ADDED], (200, ["ADDED", "MODIFIED", "ADDED"])),
    "an expired version, as an answer": (410, [TOO_OLD["object"]], (200, [410])),
    "an expired version, as an answer without a body": (410, [], (200, [410])),
    "an expired version, in the stream": (200, [ADDED, TOO_OLD], (200, ["ADDED", 410])),
    "another error in the stream": (200, [ADDED, BROKEN, MODIFIED], (200, ["ADDED", 410])),
    "nothing": (200, [], (200, [])),
}


@pytest.mark.parametrize("name", WATCHES)
def test_whatever_a_watch_is_told_it_goes_on(name: str) -> None:
    status, lines, expected = WATCHES[name]
    found, events = asyncio.run(answered("/pipelines?watch=true&resourceVersion=7", status, *lines))
    kinds = [one["object"]["code"] if one["type"] == "ERROR" else one["type"] for one in events]
    assert (found, kinds) == expected
    assert ADDED not in lines or events[0] == ADDED


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_a_watch_that_is_refused_is_told_so(status: int) -> None:
    refusal = {"kind": "Status", "code": status}
    assert asyncio.run(answered("/pipelines?watch=true", status, refusal)) == (status, [refusal])


@pytest.mark.parametrize("status", [200, 410])
def test_a_list_comes_as_it_is(status: int) -> None:
    assert asyncio.run(answered("/pipelines?limit=5", status, BROKEN)) == (status, [BROKEN])
