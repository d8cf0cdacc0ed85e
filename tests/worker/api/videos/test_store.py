"""The database of video jobs: what it stores, in which order, and for how long."""

import os
import traceback

import msgspec
import pytest
import sqlalchemy as sql

from omni_worker.api.videos.records import Video, VideoFile
from omni_worker.api.videos.store import VideoStore
from omni_worker.errors import UsageError
from omni_worker.requests import GenerationParams

PARAMS = msgspec.msgpack.encode(GenerationParams(prompt="a cat", seed=2**63 - 1))
FILES = {"video": VideoFile("video/mp4", b"0" * 100)}


@pytest.fixture(params=["sqlite", "postgres"])
def store(request, tmp_path):
    in_folder = request.param == "sqlite"
    store = VideoStore.in_folder(tmp_path) if in_folder else VideoStore(request.getfixturevalue("database"))
    yield store
    store.close()


def add(store, id, **fields):
    store.add(Video(id=id, model="m", prompt="a cat", size="auto", seconds="4", fps=16.0, params=PARAMS, **fields))
    return id


def ids(store):
    return [video.id for video in store.page(100, None, newest_first=False)]


def test_jobs_run_in_order_of_arrival_and_wait_again_after_a_restart(store):
    for id in "abc":
        add(store, id)
    assert [store.start_next().id for _ in range(2)] == ["a", "b"]
    assert (store.count_queued(), store.requeue_interrupted(), store.count_queued()) == (1, 2, 3)
    assert [store.start_next().id for _ in range(3)] == ["a", "b", "c"]
    assert store.start_next() is None
    assert msgspec.msgpack.decode(store.get("a").params, type=GenerationParams).seed == 2**63 - 1


def test_pages_follow_one_another_both_ways(store):
    for id in "abcde":
        add(store, id)
    assert [video.id for video in store.page(2, "b", newest_first=False)] == ["c", "d"]
    assert [video.id for video in store.page(2, "d", newest_first=True)] == ["c", "b"]
    assert store.page(2, "x", newest_first=True) is None


def test_a_job_that_is_done_has_its_files_until_it_expires(store):
    add(store, "a", reference=b"png")
    store.complete("a", "32x32", "4", FILES, keep_seconds=60)
    assert store.get("a").status == "completed"
    assert store.get("a").reference is None, "it is not needed any more"
    assert store.file("a", "video").data == b"0" * 100
    assert store.file("a", "thumbnail") is None
    add(store, "b")
    store.complete("b", "32x32", "4", FILES, keep_seconds=-1)
    assert store.get("b") is None
    store.clean_up(10**9)
    assert store.file("b", "video") is None
    assert ids(store) == ["a"]


def test_the_oldest_are_deleted_where_all_are_too_many_bytes(store):
    for id in "abc":
        add(store, id)
        store.complete(id, "32x32", "4", FILES, keep_seconds=60)
    add(store, "waiting")
    store.clean_up(250)
    assert ids(store) == ["b", "c", "waiting"]


def test_a_database_is_opened_again_with_all_that_was_in_it(database):
    for opened in range(2):
        store = VideoStore(database)
        assert ids(store) == ["a"] * opened
        if not opened:
            add(store, "a", reference=b"\0png")
            assert store.start_next().id == "a"
        store.close()
    store = VideoStore(database)
    assert store.requeue_interrupted() == 1
    assert store.get("a").reference == b"\0png"
    store.close()


def test_what_was_deleted_meanwhile_is_not_completed(store):
    add(store, "a")
    store.delete("a")
    store.complete("a", "32x32", "4", FILES, keep_seconds=60)
    store.fail("a", {"code": "x", "message": "y"}, keep_seconds=60)
    assert (store.get("a"), store.file("a", "video")) == (None, None)


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
def test_what_cannot_be_a_database_is_refused_with_the_flag(store, tmp_path):
    with pytest.raises(UsageError, match="another head uses it; give each a folder of its own"):
        VideoStore.in_folder(tmp_path)
    for url in ("nonsense", "sqlite:////no/such/folder/x.db", "unknown://host/name"):
        with pytest.raises(UsageError, match="--database-url: the database cannot be used"):
            VideoStore(url)


def test_owners_see_their_own_jobs_and_a_server_without_keys_sees_all(store):
    for id, owner in (("a", "tenant x"), ("b", "tenant y"), ("c", None), ("d", "tenant x")):
        add(store, id, owner=owner)
    assert store.get("a", "tenant x").id == "a"
    assert store.get("a", "tenant y") is None
    assert store.get("c", "tenant y") is None
    assert store.get("a").id == "a"
    assert [video.id for video in store.page(10, None, False, "tenant x")] == ["a", "d"]
    assert store.page(10, "b", False, "tenant x") is None, "another's id is no place in the list"
    assert ids(store) == list("abcd")


def test_an_owner_does_not_wait_for_all_jobs_of_another(store):
    for id, owner in (("a", "x"), ("b", "x"), ("c", "x"), ("d", "y"), ("e", "x"), ("f", None), ("g", None)):
        add(store, id, owner=owner)
    assert (store.count_queued("x"), store.count_queued("y"), store.count_queued()) == (4, 1, 7)
    assert [store.start_next().id for _ in range(4)] == ["a", "d", "f", "g"]
    assert [store.start_next().id for _ in range(3)] == ["b", "c", "e"]


def test_a_database_of_an_older_version_gets_what_it_lacks(store):
    add(store, "a")
    with store._engine.begin() as connection:
        connection.execute(sql.text("ALTER TABLE videos DROP COLUMN owner"))
    later = VideoStore(store._engine.url.render_as_string(hide_password=False))
    add(later, "b", owner="tenant x")
    assert [(video.id, video.owner) for video in later.page(10, None, False)] == [("a", None), ("b", "tenant x")]
    later.close()


def test_only_this_user_may_read_the_files(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir(mode=0o755)
    (folder / "videos.db").touch(0o644)
    old = os.umask(0)
    try:
        store = VideoStore.in_folder(folder)
        add(store, "a")
        new = VideoStore.in_folder(tmp_path / "new" / "videos")
    finally:
        os.umask(old)
    modes = {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}
    assert modes == {"lock": 0o600, "videos.db": 0o600, "videos.db-wal": 0o600, "videos.db-shm": 0o600}
    assert (tmp_path / "new" / "videos").stat().st_mode & 0o777 == 0o700
    store.close()
    new.close()


@pytest.mark.parametrize(
    "url", ["postgresql+psycopg://omni:hunter2@nowhere.invalid/x", "omni:hunter2@nowhere", "x://omni:hunter2@h/x"]
)
def test_a_password_is_in_no_error(url):
    with pytest.raises(UsageError) as caught:
        VideoStore(url)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))
