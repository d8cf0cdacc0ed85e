"""Videos belong to the tenant of the key that created them."""

import pytest
from starlette.testclient import TestClient

from omni_worker.api.app import create_app
from omni_worker.config.api import ApiConfig, VideoConfig
from tests.worker.api.in_process import FILMER, Head
from tests.worker.serving import eventually

KEYS = """
key-a    name=a tenant=one
key-a-2  name=a-2 tenant=one
key-b
gate     tenant=*
"""


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / "videos")


@pytest.fixture
def keys(tmp_path):
    file = tmp_path / "keys"
    file.write_text(KEYS)
    return file


def serving(folder, keys=None):
    """A client of a head with this folder of videos."""
    config = ApiConfig(key_file=None if keys is None else str(keys), videos=VideoConfig(folder))
    return TestClient(create_app(Head([FILMER]).orchestrator, "tiny", [], config))


@pytest.fixture
def client(keys, folder):
    with serving(folder, keys) as client:
        yield client


def by(key):
    return {"headers": {"Authorization": f"Bearer {key}"}}


def create(client, key, **fields):
    answer = client.post("/v1/videos", json={"prompt": "a secret of mine", "num_frames": 5, **fields}, **by(key))
    assert answer.status_code == 200, answer.text
    id = answer.json()["id"]
    eventually(lambda: client.get(f"/v1/videos/{id}", **by(key)).json()["status"] == "completed", "the video")
    return id


def ids(client, key, **query):
    return [video["id"] for video in client.get("/v1/videos", params=query, **by(key)).json()["data"]]


def test_another_tenant_neither_sees_nor_gets_nor_deletes_a_video(client):
    mine = create(client, "key-a")
    for key in ("key-b", "gate"):
        assert ids(client, key) == []
        assert client.get("/v1/videos", params={"after": mine}, **by(key)).status_code == 400
        for answer in (
            client.get(f"/v1/videos/{mine}", **by(key)),
            client.get(f"/v1/videos/{mine}/content", **by(key)),
            client.get(f"/v1/videos/{mine}/content", params={"variant": "thumbnail"}, **by(key)),
            client.head(f"/v1/videos/{mine}/content", **by(key)),
            client.delete(f"/v1/videos/{mine}", **by(key)),
        ):
            assert answer.status_code == 404
            assert "secret" not in answer.text
    assert ids(client, "key-a") == [mine]
    assert client.get(f"/v1/videos/{mine}/content", **by("key-a")).content


def test_another_key_of_the_tenant_does(client, keys):
    mine = create(client, "key-a")
    keys.write_text(KEYS.replace("key-a    name=a", "# taken away"))
    assert client.get(f"/v1/videos/{mine}", **by("key-a")).status_code == 401
    assert ids(client, "key-a-2") == [mine]
    assert client.delete(f"/v1/videos/{mine}", **by("key-a-2")).status_code == 200


def test_the_tenant_of_a_request_changes_no_owner(client):
    mine = create(client, "key-b", tenant="one", user="a")
    assert ids(client, "key-a") == []
    assert ids(client, "key-b") == [mine]


def test_pages_contain_the_own_videos_only(client):
    videos = [create(client, key) for key in ("key-a", "key-b", "key-a", "key-b", "key-a")]
    first, second, third = videos[0::2]
    assert ids(client, "key-a", order="asc", limit=2) == [first, second]
    assert ids(client, "key-a", order="asc", after=second) == [third]
    assert client.get("/v1/videos", params={"limit": 3}, **by("key-a")).json()["has_more"] is False


def test_without_keys_everything_is_everyones(keys, folder):
    with serving(folder, keys) as client:
        mine = create(client, "key-a")
    with serving(folder) as client:
        assert [video["id"] for video in client.get("/v1/videos").json()["data"]] == [mine]
