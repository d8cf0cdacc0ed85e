"""Where the development cluster takes Kubernetes from: a folder, the cache, a download, a compilation."""

import hashlib
import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hack.cluster import build, download, programs
from hack.cluster.download import Patience, UnavailableError
from hack.cluster.programs import (
    COMPILED,
    CONTAINERD,
    NEWEST,
    OLDEST,
    RUNTIME,
    SERVERS,
    choose,
    debian_packages,
    unpack,
)
from hack.cluster.shell import ClusterError

from tests.hack.release_server import ReleaseServer, release_server
from tests.worker.serving import free_ports


def program(version: str) -> bytes:
    return f"#!/bin/sh\necho Kubernetes v{version}\n".encode()


def install(folder: Path, version: str, names: tuple[str, ...] = SERVERS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(program(version))
        (folder / name).chmod(0o755)
    return folder


def archive(names: tuple[str, ...], content: bytes, folder: str) -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as tar:
        for name in names:
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    return whole.getvalue()


def publish(server: ReleaseServer, version: str, containerd: bool = True) -> None:
    for name in SERVERS:
        server.publish(f"/v{version}/bin/linux/{programs.ARCHITECTURE}/{name}", program(version))
    if containerd:
        name = f"/v{CONTAINERD}/containerd-{CONTAINERD}-linux-{programs.ARCHITECTURE}.tar.gz"
        server.publish(name, archive(RUNTIME, b"#!/bin/sh\n", "bin"), "sha256sum")


@pytest.fixture
def server() -> Iterator[ReleaseServer]:
    with release_server() as server:
        yield server


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: ReleaseServer) -> Path:
    """An empty cache, a release server with nothing on it, a machine without containerd, a quick compiler."""
    cache = tmp_path / "cache"
    for module in (programs, build):
        monkeypatch.setattr(module, "CACHE", cache)
    monkeypatch.setattr("hack.cluster.cache.CACHE", cache)
    monkeypatch.setattr(build, "BIN", cache / f"kubernetes-{COMPILED}/bin")
    monkeypatch.setattr(build, "build", lambda: install(build.BIN, COMPILED))
    monkeypatch.setattr(programs, "KUBERNETES_URL", server.url)
    monkeypatch.setattr(programs, "CONTAINERD_URL", server.url)
    monkeypatch.setattr(download, "Patience", lambda: Patience(retries=1, pause_seconds=0))
    monkeypatch.setattr(programs.shutil, "which", lambda name: None)
    monkeypatch.delenv("OMNI_KUBERNETES", raising=False)
    return cache


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that says which Kubernetes is used, and why."""
    (line,) = [line for line in capsys.readouterr().err.splitlines() if re.match(r"cluster: Kubernetes \d", line)]
    return line.removeprefix("cluster: ")


@pytest.mark.parametrize("below", ["", "bin", "server/bin", "kubernetes/server/bin"])
def test_a_folder_that_is_given_wins(
    below: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(cache / f"kubernetes-{NEWEST}", NEWEST)
    own = install(tmp_path / "own" / below, "1.36.1", (*SERVERS, *RUNTIME, "etcd"))
    monkeypatch.setenv("OMNI_KUBERNETES", str(tmp_path / "own"))
    chosen = choose("oldest")
    assert chosen.version == "1.36.1"
    assert chosen.find("kubelet") == f"{own}/kubelet"
    assert chosen.path.startswith(f"{own}:")
    assert said(capsys) == f"Kubernetes 1.36.1 from {own} (OMNI_KUBERNETES)"
    wanted = debian_packages(chosen)
    assert "runc" in wanted, "not in the folder"
    assert not {"etcd-server", "containerd"} & set(wanted)


def test_a_folder_of_another_version_than_the_one_that_is_named_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMNI_KUBERNETES", str(install(tmp_path / "own", OLDEST)))
    assert choose(OLDEST).version == OLDEST
    with pytest.raises(ClusterError, match=f"holds Kubernetes {OLDEST}, but --kubernetes asks for {NEWEST}"):
        choose(NEWEST)


def test_a_folder_without_the_programs_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNI_KUBERNETES", str(install(tmp_path / "own", OLDEST, SERVERS[1:])))
    with pytest.raises(ClusterError, match="expected a folder with kube-apiserver, "):
        choose()


def test_the_cache_is_used_before_anything_is_downloaded(
    cache: Path, server: ReleaseServer, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = install(cache / f"kubernetes-{OLDEST}", OLDEST)
    assert choose("oldest").find("kubelet") == f"{folder}/kubelet"
    assert said(capsys) == f"Kubernetes {OLDEST} from the cache ({folder})"
    assert not server.requests


def test_the_newest_is_downloaded_once_with_its_containerd(
    cache: Path, server: ReleaseServer, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(server, NEWEST)
    chosen = choose()
    assert said(capsys) == f"Kubernetes {NEWEST} downloaded from {server.url}"
    assert chosen.find("kubelet") == f"{cache}/kubernetes-{NEWEST}/bin/kubelet"
    assert chosen.find("containerd") == f"{cache}/containerd-{CONTAINERD}/containerd"
    server.requests.clear()
    assert choose() == chosen
    assert not server.requests
    assert {each.name for each in cache.iterdir()} == {f"kubernetes-{NEWEST}", f"containerd-{CONTAINERD}", "locks"}


def test_without_a_node_no_containerd_is_needed(server: ReleaseServer) -> None:
    publish(server, NEWEST, containerd=False)
    assert choose(with_node=False).version == NEWEST


def test_an_older_kubelet_takes_the_containerd_of_the_machine(server: ReleaseServer) -> None:
    publish(server, OLDEST, containerd=False)
    chosen = choose("oldest")
    assert chosen.find("containerd") == "containerd"
    assert "containerd" in debian_packages(chosen)


def test_a_containerd_2_of_the_machine_is_enough_for_the_newest(
    tmp_path: Path, server: ReleaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(server, NEWEST, containerd=False)
    own = tmp_path / "containerd"
    monkeypatch.setattr(programs.shutil, "which", {"containerd": str(own)}.get)
    own.write_text("#!/bin/sh\necho containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u2\n")
    own.chmod(0o755)
    with pytest.raises(UnavailableError, match=r"containerd-.*404"):
        choose(NEWEST)
    own.write_text("#!/bin/sh\necho containerd github.com/containerd/containerd/v2 v2.2.0 1c4457e\n")
    assert choose(NEWEST).find("containerd") == "containerd"


def test_what_cannot_be_downloaded_is_compiled(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    monkeypatch.setattr(programs, "CONTAINERD_URL", url)
    assert choose() == programs.Programs(COMPILED, (cache / f"kubernetes-{COMPILED}/bin",))
    line = said(capsys)
    assert line.startswith(
        f"Kubernetes {COMPILED} compiled from Debian's source; {NEWEST} cannot be downloaded: {url}/"
    )
    assert "cannot be reached" in line


def test_what_cannot_be_downloaded_is_replaced_by_what_is_in_the_cache(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(cache / f"kubernetes-{COMPILED}/bin", COMPILED)
    assert choose().version == COMPILED
    install(cache / f"kubernetes-{OLDEST}", OLDEST)
    capsys.readouterr()
    assert choose().version == OLDEST
    assert said(capsys).startswith(
        f"Kubernetes {OLDEST} from the cache ({cache}/kubernetes-{OLDEST}); {NEWEST} cannot be downloaded: http"
    )


def test_the_newest_from_the_cache_without_its_containerd_is_replaced_too(cache: Path) -> None:
    for version in (NEWEST, OLDEST):
        install(cache / f"kubernetes-{version}", version)
    assert choose().version == OLDEST
    assert choose(with_node=False).version == NEWEST


def test_a_version_that_is_named_is_never_replaced(cache: Path, server: ReleaseServer) -> None:
    install(cache / f"kubernetes-{OLDEST}", OLDEST)
    with pytest.raises(UnavailableError, match=r"v1\.36\.1/.*: the server answers 404"):
        choose("1.36.1", with_node=False)
    publish(server, "1.36.1")
    assert choose("1.36.1").version == "1.36.1"
    assert choose(COMPILED).version == COMPILED


def test_a_wrong_checksum_is_never_passed_over(server: ReleaseServer) -> None:
    publish(server, NEWEST)
    server.files[f"/v{NEWEST}/bin/linux/{programs.ARCHITECTURE}/kubelet.sha256"] = (
        hashlib.sha256(b"").hexdigest().encode()
    )
    with pytest.raises(ClusterError, match="has the SHA-256"):
        choose()


@pytest.mark.parametrize("wanted", ["latest", "1.37", "v1.37.2", "../1.37.2"])
def test_a_version_must_be_one(wanted: str) -> None:
    with pytest.raises(ClusterError, match=f"--kubernetes {wanted}: expected newest, oldest or a version such as"):
        choose(wanted)


def test_an_archive_is_unpacked_into_the_cache(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "kubernetes.tar.gz"
    file.write_bytes(archive((*SERVERS, *RUNTIME), program(NEWEST), f"kubernetes-{NEWEST}"))
    unpack(file)
    chosen = choose()
    assert chosen.find("containerd") == f"{cache}/kubernetes-{NEWEST}/containerd"
    unpack(file)
    assert f"Kubernetes {NEWEST} is in the cache already" in capsys.readouterr().err


def test_an_archive_of_something_else_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "other.tar.gz"
    file.write_bytes(archive(("kubectl",), b"", "kubernetes/client/bin"))
    with pytest.raises(ClusterError, match="expected an archive with kube-apiserver, "):
        unpack(file)


def test_what_a_cluster_runs_is_kept(tmp_path: Path) -> None:
    one = programs.Programs(NEWEST, (tmp_path, tmp_path / "bin"))
    one.save(tmp_path / "programs.json")
    assert programs.Programs.load(tmp_path / "programs.json") == one
    assert one.minor == 37
