"""GET /docs: plain HTML, which loads nothing and runs nothing."""

import asyncio
import re

import httpx
import pytest
from prometheus_client import CollectorRegistry

from omni_worker.api.app import create_app
from omni_worker.api.docs_page import render
from omni_worker.orchestrator.orchestrator import Orchestrator
from omni_worker.telemetry.metrics import HeadMetrics


@pytest.fixture(scope="module")
def app():
    return create_app(Orchestrator([], HeadMetrics(CollectorRegistry())), "tiny", [])


@pytest.fixture(scope="module")
def get(app):
    async def ask(path):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
            return await client.get(path)

    return lambda path: asyncio.run(ask(path))


def test_it_lists_every_route_and_schema(app, get):
    text = get("/docs").text
    for path in app.openapi()["paths"]:
        assert f"<code>{path}</code>" in text
    names = set(app.openapi()["components"]["schemas"])
    assert set(re.findall(r'href="#(\w+)"', text)) <= names, "every link leads somewhere"
    assert {"num_inference_steps", "negative_prompt"} <= set(re.findall(r"<code>([a-z_]+)</code>", text))


def test_it_loads_nothing_and_runs_nothing(get):
    answer = get("/docs")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r'<script|<link|<img|<iframe|\ssrc=|<[^>]*\son\w+=|href="(?!#|openapi)', answer.text)
    assert get("/redoc").status_code == 404


def test_what_the_page_says_is_no_markup():
    page = {
        "info": {"title": "<b>", "version": "1", "description": "a `<i>` b"},
        "paths": {"/<u>": {"get": {"responses": {"200": {"description": "<s>"}}}}},
        "components": {"schemas": {"<q>": {"properties": {"<p1>": {"type": "<h9>", "description": "<em>"}}}}},
    }
    text = render(page)
    for tag in ("<b>", "<i>", "<u>", "<s>", "<q>", "<p1>", "<h9>", "<em>"):
        assert tag not in text
    assert "<code>&lt;i&gt;</code>" in text
