"""kopf's way to the API server, where a watch cannot go on from the version that it has seen last."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

from aiohttp import web

from omni_operator.controller.kopf_session import kopf_session
from omni_operator.kube.connection import Connection

ADDED = {"type": "ADDED", "object": {"metadata": {"name": "digits"}}}


async def answered(path: str, asked: list[dict[str, str]]) -> tuple[int, Any]:
    """The status and the first line of what a server answers that knows no version any more."""

    async def answer(request: web.Request) -> web.Response:
        asked.append(dict(request.query))
        if "resourceVersion" in request.query:
            return web.json_response({"kind": "Status", "code": 410}, status=410)
        return web.Response(text=json.dumps(ADDED) + "\n", headers={"Authenticated": request.headers["authorization"]})

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = site.name
    connection = SimpleNamespace(
        url=url, proxy=None, tls_context=lambda: True, credentials=lambda: {"authorization": "Bearer me"}
    )
    info = kopf_session(cast(Connection, connection))
    try:
        async with info.aiohttp_session as session, session.get(f"{info.server}{path}") as response:
            return response.status, json.loads(await response.content.readline())
    finally:
        await runner.cleanup()


def test_a_watch_goes_on_from_now_where_its_version_has_expired() -> None:
    asked: list[dict[str, str]] = []
    found = asyncio.run(answered("/pipelines?watch=true&timeoutSeconds=9&resourceVersion=7", asked))
    assert found == (200, ADDED)
    assert asked == [
        {"watch": "true", "timeoutSeconds": "9", "resourceVersion": "7"},
        {"watch": "true", "timeoutSeconds": "9"},
    ]


def test_a_list_is_told_that_its_version_has_expired() -> None:
    asked: list[dict[str, str]] = []
    status, content = asyncio.run(answered("/pipelines?limit=5&resourceVersion=7", asked))
    assert (status, content["code"], len(asked)) == (410, 410, 1)
