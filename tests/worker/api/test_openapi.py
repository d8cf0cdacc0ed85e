"""The OpenAPI page: it is complete, and every response conforms to it."""

import json
import subprocess
import sys

import httpx
import pytest

from .heads import head

pytestmark = pytest.mark.processes
LIMITS = ("--max-steps", "4", "--max-n", "2", "--max-pixels", "4096", "--max-prompt-length", "200")


@pytest.fixture(scope="module")
def url():
    with head("builtin://digits", *LIMITS) as process:
        yield f"http://127.0.0.1:{process.port}"


@pytest.fixture(scope="module")
def page(url):
    return httpx.get(f"{url}/openapi.json").json()


def test_whatever_is_asked_the_answer_is_one_that_the_page_tells_of(url, tmp_path):
    """Sends requests that conform to the page and others. No response has a 5xx status or an undocumented shape, and
    requests that do not conform are refused. Conforming requests may be refused too: the page cannot express which
    sizes, models and combinations this pipeline supports."""
    command = [
        "from schemathesis.cli import schemathesis; schemathesis()",
        "run",
        f"{url}/openapi.json",
        "--exclude-checks",
        "positive_data_acceptance",
    ]
    bounds = ["--phases", "coverage,fuzzing", "--max-examples", "5", "--max-time", "35", "--generation-deterministic"]
    run = subprocess.run(
        [sys.executable, "-c", *command, *bounds, "--request-timeout", "30", "--continue-on-failure", "--no-color"],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stdout[-10_000:] + run.stderr[-2000:]


def test_the_page_names_every_header_and_error(page):
    for path, methods in page["paths"].items():
        for method, operation in methods.items():
            answers = operation["responses"]
            assert "422" not in answers
            for status, answer in answers.items():
                assert "X-Request-Id" in answer["headers"], (path, method, status)
                assert ("Retry-After" in answer["headers"]) == (status in ("429", "503") and "/v1" in path)
                if status >= "400" and path.startswith("/v1"):
                    schema = answer["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/ErrorResponse"}
    assert {"/livez", "/metrics", "/v1/images/edits", "/v1/videos/{video_id}/content"} <= set(page["paths"])
    assert "HTTPValidationError" not in json.dumps(page)


def test_routes_that_stream_tell_of_their_events(page):
    for path in ("/v1/images/generations", "/v1/images/edits", "/v1/chat/completions"):
        content = page["paths"][path]["post"]["responses"]["200"]["content"]
        assert set(content) == {"application/json", "text/event-stream"}
        assert content["text/event-stream"]["itemSchema"]["properties"]["data"]["contentSchema"]["title"]
    assert set(page["paths"]["/v1/images/edits"]["post"]["requestBody"]["content"]) == {"multipart/form-data"}
