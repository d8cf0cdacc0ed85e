"""The database of video jobs: what it stores, in which order, and for how long."""

import msgspec
import pytest

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
