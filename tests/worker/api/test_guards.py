"""API keys, the limit of the body, and web origins."""

import os

import httpx
import openai
import pytest
from openai import OpenAI

from ..serving import eventually
from .heads import head

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text("# those of the tests\nfirst-key\n\n  second-key  \n")
    return file


@pytest.fixture(scope="module")
def process(keys):
    keys.chmod(0o644)
    flags = ("--api-key-file", str(keys), "--cors-origin", "https://pages.example", "--max-body-bytes", "10000")
    with head("builtin://digits", *flags, replicas=0) as process:
        yield process


@pytest.fixture(scope="module")
def port(process):
    return process.port


def url(port, path):
    return f"http://127.0.0.1:{port}{path}"


def client(port, key):
    return OpenAI(base_url=url(port, "/v1"), api_key=key, max_retries=0)


@pytest.mark.parametrize("key", ["first-key", "second-key"])
def test_who_has_a_key_may_come_in(port, key):
    assert [model.id for model in client(port, key).models.list()] == ["tiny"]


@pytest.mark.parametrize("key", ["third-key", "first-ke", "# those of the tests", "clé"])
def test_who_has_another_may_not(port, key):
    if key.isascii():
        with pytest.raises(openai.AuthenticationError) as caught:
            client(port, key).models.list()
        assert (caught.value.code, caught.value.type) == ("invalid_api_key", "invalid_request_error")
        assert key not in caught.value.message
    else:
        headers = {"Authorization": b"Bearer " + key.encode("latin-1")}
        assert httpx.get(url(port, "/v1/models"), headers=headers).status_code == 401


def test_who_has_none_is_told_how_to_send_it(port):
    for path in ("/v1/models", "/omni/replicas", "/v1/omni/other", "/v1/nothing"):
        answer = httpx.get(url(port, path))
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["x-request-id"]
        assert answer.json()["error"]["code"] == "missing_api_key"
        assert "Authorization: Bearer" in answer.json()["error"]["message"]


def test_probes_metrics_and_the_description_are_free(port):
    for path in ("/livez", "/startupz", "/metrics", "/v1/omni/topology", "/openapi.json", "/docs"):
        assert httpx.get(url(port, path)).status_code == 200, path


def code(port, key):
    return httpx.get(url(port, "/v1/models"), headers={"Authorization": f"Bearer {key}"}).status_code


def test_keys_are_read_again_when_they_change(port, keys):
    before = keys.read_text()
    keys.write_text(before + "another-key\n")
    assert code(port, "another-key") == 200
    keys.write_text(before)
    assert code(port, "another-key") == 401
    assert code(port, "first-key") == 200


@pytest.mark.parametrize("how", ["emptied", "only comments", "deleted", "a folder", "no text"])
def test_keys_that_were_taken_away_stay_away(port, keys, how):
    before = keys.read_text()
    assert code(port, "first-key") == 200
    keys.unlink()
    if how == "a folder":
        keys.mkdir()
    elif how != "deleted":
        keys.write_bytes({"emptied": b"", "only comments": b"# none\n", "no text": b"first-key\n\xff\xfe"}[how])
    assert code(port, "first-key") == 401
    if how == "a folder":
        keys.rmdir()
    keys.write_text(before)
    assert code(port, "first-key") == 200


def test_a_key_of_the_same_length_and_time_takes_the_place_of_another(port, keys):
    before, status = keys.read_text(), keys.stat()
    keys.write_text(before.replace("first", "other"))
    os.utime(keys, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (code(port, "first-key"), code(port, "other-key")) == (401, 200)
    keys.write_text(before)


def test_rejected_keys_are_logged_and_counted(process, port):
    def count(reason):
        lines = httpx.get(url(port, "/metrics")).text.splitlines()
        return next(
            float(line.split()[1]) for line in lines if line.startswith(f'omni_api_refused_total{{reason="{reason}"')
        )

    before = count("unknown_key"), count("missing_key")
    for _ in range(5):
        code(port, "a-guess")
    httpx.get(url(port, "/v1/models"))
    assert (count("unknown_key"), count("missing_key")) == (before[0] + 5, before[1] + 1)
    assert "401: unknown API key, from 127.0.0.1" in process.log
    assert "a-guess" not in process.log


def test_a_file_that_every_user_may_read_is_warned_of(process):
    assert "may be read by every user of this machine" in process.log


def test_a_client_has_a_rate(port, keys):
    before = keys.read_text()
    keys.write_text(before + "slow-key requests-per-minute=2\n")
    headers = {"Authorization": "Bearer slow-key"}
    answers = [httpx.post(url(port, "/v1/images/generations"), json={}, headers=headers) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [400, 400, 429]
    assert 1 <= int(answers[2].headers["retry-after"]) <= 30
    assert answers[2].json()["error"]["code"] == "rate_limit_exceeded"
    assert httpx.get(url(port, "/v1/models"), headers=headers).status_code == 200, "reading is free"
    keys.write_text(before)


def test_a_file_without_keys_is_refused_at_the_start(tmp_path):
    (tmp_path / "keys").write_text("# none\n")
    with (
        pytest.raises(AssertionError, match="holds no key: openssl rand"),
        head("builtin://digits", "--api-key-file", str(tmp_path / "keys"), replicas=0),
    ):
        pass


def test_a_body_that_is_too_long_is_not_read(port):
    headers = {"Authorization": "Bearer first-key"}
    with_length = httpx.post(url(port, "/v1/images/generations"), json={"prompt": "x" * 20_000}, headers=headers)

    def pieces():
        for _ in range(20):
            yield b" " * 1000

    without_length = httpx.post(
        url(port, "/v1/images/generations"), content=pieces(), headers=headers | {"Content-Type": "application/json"}
    )
    for answer in (with_length, without_length):
        assert answer.status_code == 413
        assert answer.json()["error"]["type"] == "invalid_request_error"
        assert "longer than the 10000 bytes" in answer.json()["error"]["message"]
        assert answer.headers["x-request-id"]
    assert eventually(lambda: httpx.get(url(port, "/livez")).is_success, "the head to go on")


@pytest.mark.parametrize(
    ("origin", "allowed"), [("https://pages.example", "https://pages.example"), ("https://other.example", None)]
)
def test_pages_of_the_origins_that_were_named_may_call(port, origin, allowed):
    preflight = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    for answer in (
        httpx.options(url(port, "/v1/images/generations"), headers=preflight),
        httpx.get(url(port, "/v1/models"), headers={"Origin": origin, "Authorization": "Bearer first-key"}),
        httpx.get(url(port, "/v1/models"), headers={"Origin": origin}),
    ):
        assert answer.headers.get("access-control-allow-origin") == allowed
