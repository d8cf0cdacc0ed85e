"""HTTPS: serving with a certificate, replacing it while serving, and certificates that cannot be used."""

import asyncio
import functools
import http.client
import os
import shutil
import ssl
import subprocess
import sys
import time

import httpx
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from omni_worker.api.http import server as http_server
from omni_worker.api.http.server import HttpServer
from omni_worker.config.api import Certificate
from omni_worker.errors import CommandError
from tests.worker.certificates import certificate
from tests.worker.serving import Process, eventually, free_ports


async def scheme(request):
    return PlainTextResponse(request.url.scheme)


@pytest.fixture
def make_certificate(tmp_path):
    """Makes a certificate with a given name."""

    return functools.partial(certificate, tmp_path)


@pytest.fixture
def often(monkeypatch):
    """Checks the certificate's files all the time."""
    monkeypatch.setattr(http_server, "CERTIFICATE_SECONDS", 0.02)


def scheme_and_name(port, authority):
    """The scheme that the server sees, and the name in the certificate that it shows; it must be of `authority`."""
    connection = http.client.HTTPSConnection(
        "localhost", port, timeout=10, context=ssl.create_default_context(cafile=authority)
    )
    connection.request("GET", "/")
    answer = connection.getresponse().read().decode()
    name = dict(pair for (pair,) in connection.sock.getpeercert()["subject"])["commonName"]
    connection.close()
    return answer, name


def serving(certificate, steps):
    """Serve with a certificate while `steps(port)` runs in a thread of its own."""

    async def body():
        (port,) = free_ports(1)
        server = HttpServer(Starlette(routes=[Route("/", scheme)]), "127.0.0.1", port, 1.0, certificate)
        running = asyncio.create_task(server.run())
        try:
            await asyncio.to_thread(steps, port)
        finally:
            server.drain()
            await running

    asyncio.run(body())


def until(check):
    for _ in range(500):
        try:
            if check():
                return
        except ssl.SSLCertVerificationError:
            pass
        time.sleep(0.02)
    raise AssertionError("never came")


def test_a_new_certificate_takes_the_place_of_the_old_one_for_new_connections(make_certificate, often):
    (chain, key), (later, later_key) = make_certificate("first"), make_certificate("second")

    def steps(port):
        assert scheme_and_name(port, chain) == ("https", "first")
        authority = shutil.copy(later, later.with_suffix(".authority"))
        later_key.replace(key)
        later.replace(chain)
        until(lambda: scheme_and_name(port, authority) == ("https", "second"))

    serving(Certificate(str(chain), str(key)), steps)


def test_a_certificate_that_is_none_leaves_the_one_before_in_use_and_is_said(make_certificate, often, caplog):
    chain, key = make_certificate("first")
    authority = shutil.copy(chain, chain.with_suffix(".authority"))

    def steps(port):
        chain.write_text("nonsense")
        until(lambda: "the certificate as it was before is still in use" in caplog.text)
        assert scheme_and_name(port, authority) == ("https", "first")

    serving(Certificate(str(chain), str(key)), steps)


@pytest.mark.parametrize(
    ("chain", "key", "says"),
    [
        ("there is none", None, "there is none: No such file or directory; expected a certificate and its"),
        ("first.crt", "second.key", "expected a certificate and its private key, in PEM"),
    ],
)
def test_what_is_no_certificate_is_refused_by_its_flag_before_anything_is_served(
    make_certificate, tmp_path, chain, key, says
):
    make_certificate("first"), make_certificate("second")
    certificate = Certificate(str(tmp_path / chain), str(tmp_path / key) if key else None)
    with pytest.raises(CommandError, match="--ssl-certfile") as caught:
        HttpServer(Starlette(), "127.0.0.1", free_ports(1)[0], 1.0, certificate)
    assert says in str(caught.value)


# ---- a whole head, and the commands that speak to it


@pytest.mark.processes
def test_a_head_speaks_https_and_the_commands_trust_who_they_are_told_to(make_certificate, tmp_path):
    chain, key = make_certificate("head")
    api, master, router, pub, data = free_ports(5)
    head = Process(
        "builtin://digits", "--host", "127.0.0.1", "--port", str(api), "--omni-master-address", "127.0.0.1",
        "--omni-master-port", str(master), "--omni-coordinator-port", str(router),
        "--omni-coordinator-pub-port", str(pub), "--omni-replica-port", str(data),
        "--ssl-certfile", str(chain), "--ssl-keyfile", str(key), port=api,
    )  # fmt: skip
    url = f"https://localhost:{api}"

    def omni(*arguments, **environment):
        command = [sys.executable, "-m", "omni_worker.commands.cli", *arguments, "--url", url]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})

    try:
        with httpx.Client(verify=ssl.create_default_context(cafile=chain)) as client:
            eventually(lambda: client.get(f"{url}/readyz").status_code == 200, "a head that serves")
        file = tmp_path / "three.png"
        drawn = omni("generate", "a red three", "--steps", "1", "-o", str(file), SSL_CERT_FILE=str(chain))
        assert drawn.returncode == 0, drawn.stderr
        assert Image.open(file).size == (32, 32)
        refused = omni("status")
        assert refused.returncode == 1
        assert f"the certificate of {url} is not trusted" in refused.stderr
        assert "set SSL_CERT_FILE" in refused.stderr
        assert head.stop() == 0
    finally:
        head.close()
