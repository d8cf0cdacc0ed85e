"""Web pages that a head on loopback serves, and those that it does not."""

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from omni_worker.api.access.browsers import LocalPagesOnly, is_local_name
from omni_worker.telemetry.metrics import AccessMetrics

HERE = "127.0.0.1:8000"


async def hello(request):
    return PlainTextResponse("hello")


@pytest.fixture(scope="module")
def registry():
    return CollectorRegistry()


@pytest.fixture(scope="module")
def ask(registry):
    app = Starlette(routes=[Route("/", hello, methods=["GET", "POST"])])
    app.add_middleware(
        LocalPagesOnly, hosts=["Omni.Example"], origins=["https://pages.example"], metrics=AccessMetrics(registry)
    )

    async def ask(method, **headers):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            return (await client.request(method, "/", headers=names)).status_code

    import asyncio

    return lambda method, **headers: asyncio.run(ask(method, **headers))


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "localhost:8000", "LOCALHOST", HERE, "[::1]:8000", "::1", "x", "my-laptop:80", "a.localhost:1",
        "192.168.1.5", "localhost.", "",
    ],
)  # fmt: skip
def test_names_that_no_stranger_owns(host):
    assert is_local_name(host)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "evil.example.",
        "127.0.0.1.nip.io:8000", "1.2.3.4.5", "\x1b[31m.example", "[evil.example]:80",
    ],
)  # fmt: skip
def test_names_that_a_stranger_may_own(host):
    assert not is_local_name(host)


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_a_public_name_is_refused_unless_it_is_allowed(ask, method):
    assert ask(method, host="evil.example:8000", origin="http://evil.example:8000") == 403
    assert ask(method, host="omni.example:8000") == 200


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param({}, 200, id="no browser"),
        pytest.param({"origin": f"http://{HERE}", "sec_fetch_site": "same-origin"}, 200, id="its own page"),
        pytest.param({"origin": f"https://{HERE}"}, 200, id="its own page behind TLS"),
        pytest.param({"origin": "https://pages.example", "sec_fetch_site": "cross-site"}, 200, id="allowed by CORS"),
        pytest.param({"origin": "http://evil.example"}, 403, id="another site"),
        pytest.param({"origin": "http://127.0.0.1:9999"}, 403, id="another port"),
        pytest.param({"origin": "null"}, 403, id="a sandboxed page"),
        pytest.param({"sec_fetch_site": "cross-site"}, 403, id="another site without Origin"),
        pytest.param({"sec_fetch_site": "none"}, 200, id="the address bar"),
    ],
)
def test_what_starts_work_must_come_from_an_own_page(ask, headers, expected):
    assert ask("POST", host=HERE, **headers) == expected
    assert ask("GET", host=HERE, **headers) == 200


def test_refusals_are_counted(ask, registry):
    def count():
        return registry.get_sample_value("omni_api_refused_total", {"reason": "host"})

    before = count()
    ask("GET", host="evil.example")
    assert count() == before + 1
