"""The archive of what torch has compiled: it saves compilations, and no problem with its volume stops a replica."""

import errno
import logging
import os
import tarfile
import threading
import time
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor.utils import clear_caches

from omni_worker.pipelines import compile_cache
from omni_worker.pipelines.compilation import compilations
from omni_worker.pipelines.compile_cache import CompileCache


def replica(tmp_path, name, digest="d1"):
    """The cache of a replica on a host of its own, by the volume of `tmp_path`."""
    local = tmp_path / name
    local.mkdir(exist_ok=True)
    return CompileCache(tmp_path / "volume" / "omni-compile", digest, local)


def write(cache, **contents):
    for name, content in contents.items():
        path = cache.local / "ab" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)


def names(cache):
    return sorted(path.name for path in cache.local.rglob("*") if path.is_file())


def test_a_later_replica_takes_its_graphs_from_the_archive(tmp_path, monkeypatch):
    def double(x):
        return torch.sin(x) * 2 + x

    def compiled_by(name):
        torch._dynamo.reset()
        clear_caches()
        counters.clear()
        cache = replica(tmp_path, name)
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")  # restored after the test
        cache.start(writes=False)
        got = torch.compile(double)(torch.arange(8.0))
        assert torch.allclose(got, double(torch.arange(8.0)))
        return cache, counters["inductor"]["fxgraph_cache_hit"]

    with torch._inductor.config.patch(fx_graph_cache=True, compile_threads=1):
        first, hits = compiled_by("one")
        assert hits == 0
        assert first.save()
        later, hits = compiled_by("two")
        assert hits == 1
        assert {path.suffix for path in later.local.rglob("*.so")} == {".so"}
        _, hits = compiled_by("three")
        assert hits == 1
    torch._dynamo.reset()


def test_what_is_compiled_is_kept_soon(tmp_path, monkeypatch):
    monkeypatch.setattr(compile_cache, "SETTLE_SECONDS", 0.01)
    monkeypatch.setattr(compilations, "on_end", [])
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    cache = replica(tmp_path, "one")
    cache.start()
    write(cache, graph="compiled")
    assert not cache.archive.exists()
    torch._dynamo.reset()
    compilations.watch("model")
    torch.compile(lambda x: x * 3 + 1, backend="eager")(torch.ones(3))
    end = time.monotonic() + 30
    while not cache.archive.exists():
        assert time.monotonic() < end
        time.sleep(0.01)
    other = replica(tmp_path, "two")
    assert other.restore() == 1
    assert (other.local / "ab" / "graph").read_text() == "compiled"


def test_replicas_add_to_the_archive_and_write_at_one_time(tmp_path):
    caches = [replica(tmp_path, f"host-{i}") for i in range(4)]
    for i, cache in enumerate(caches):
        write(cache, **{f"own-{i}": "x" * 1000})
    threads = [threading.Thread(target=cache.save) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader = replica(tmp_path, "reader")
    assert reader.restore() >= 1, "one of the archives, and a whole one"
    for cache in caches:
        assert cache.save()
    assert replica(tmp_path, "later").restore() == 4
    assert [path.suffix for path in caches[0].archive.parent.iterdir()] == [".gz"], "nothing unfinished is left"


def test_files_that_are_being_written_are_left_out(tmp_path):
    cache = replica(tmp_path, "one")
    write(cache, graph="g", **{"x.lock": "", "tmpab12": "half", ".ab.tmp": "half"})
    (cache.local / "locks").mkdir()
    (cache.local / "locks" / "key").write_text("")
    assert cache.save()
    later = replica(tmp_path, "two")
    later.restore()
    assert names(later) == ["graph"]


@pytest.mark.parametrize("content", [b"", b"no archive", "cut"], ids=["empty", "garbage", "cut"])
def test_a_broken_archive_is_ignored_and_replaced(tmp_path, caplog, content):
    cache = replica(tmp_path, "one")
    write(cache, graph="g" * 5000)
    cache.save()
    if content == "cut":
        content = cache.archive.read_bytes()[:60]
    cache.archive.write_bytes(content)
    later = replica(tmp_path, "two")
    later.restore()
    assert "torch compiles again" in caplog.text
    assert not [name for name in names(later) if "unfinished" in name]
    write(later, other="o")
    assert later.save()
    assert replica(tmp_path, "three").restore() >= 1


def test_an_archive_writes_nowhere_else(tmp_path, caplog):
    cache = replica(tmp_path, "one")
    cache.archive.parent.mkdir(parents=True)
    (tmp_path / "bad").write_text("bad")
    with tarfile.open(cache.archive, "w:gz") as archive:
        archive.add(tmp_path / "bad", "../escaped")
    assert cache.restore() == 0
    assert not (tmp_path / "escaped").exists()
    assert "outside the destination" in caplog.text


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_volume_that_cannot_be_written_is_reported_once(tmp_path, monkeypatch, caplog, number):
    cache = replica(tmp_path, "one")
    write(cache, graph="g")

    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    broken = ("mkdir", fail) if number != errno.ENOSPC else ("replace", fail)
    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setattr(Path, *broken)
        assert not cache.save()
        assert not cache.save()
    assert caplog.text.count("what torch compiled is not kept in") == 1
    assert os.strerror(number) in caplog.text
    folder = cache.archive.parent
    assert not folder.exists() or not list(folder.iterdir())
    assert cache.save()


def test_archives_are_of_one_model_and_one_image(tmp_path, monkeypatch):
    one, other = replica(tmp_path, "one"), replica(tmp_path, "two", digest="d2")
    assert one.archive.name.startswith(f"d1-torch-{torch.__version__}-")
    assert one.archive.name != other.archive.name
    monkeypatch.setattr(compile_cache, "_cpu_features", lambda: ["other"])
    assert replica(tmp_path, "three").archive.name != one.archive.name


def test_archives_that_nobody_uses_are_removed(tmp_path):
    old, new = replica(tmp_path, "one", "old"), replica(tmp_path, "two", "new")
    for cache in (old, new):
        write(cache, graph="g")
        assert cache.save()
    stale = old.archive.with_name(".d-host-1.unfinished")
    stale.write_text("half")
    long_ago = time.time() - compile_cache.UNUSED_SECONDS - 1
    for path in (old.archive, stale):
        os.utime(path, (long_ago, long_ago))
    replica(tmp_path, "three", "old").restore()  # it is in use again
    assert new.save()
    assert old.archive.exists()
    assert not stale.exists()
    os.utime(old.archive, (long_ago, long_ago))
    assert new.save()
    assert not old.archive.exists()
