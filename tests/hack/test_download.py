"""The download of a release's files, from a local server on which everything goes wrong that does elsewhere."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hack.cluster import download
from hack.cluster.download import Patience, UnavailableError, fetch
from hack.cluster.shell import ClusterError

from tests.hack.release_server import ReleaseServer, Trouble, release_server
from tests.worker.serving import free_ports

CONTENT = bytes(range(256)) * 40
IMPATIENT = Patience(answer_seconds=5, stall_seconds=0.3, retries=3, pause_seconds=0.01)


@pytest.fixture
def server() -> Iterator[ReleaseServer]:
    with release_server() as server:
        server.publish("/kubelet", CONTENT)
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "bin/kubelet"


def get(server: ReleaseServer, target: Path) -> None:
    fetch(f"{server.url}/kubelet", f"{server.url}/kubelet.sha256", target, IMPATIENT)


def test_a_file_arrives_complete_and_executable(server: ReleaseServer, target: Path) -> None:
    get(server, target)
    assert target.read_bytes() == CONTENT
    assert target.stat().st_mode & 0o777 == 0o755
    assert [each.name for each in target.parent.iterdir()] == ["kubelet"]


def test_a_file_that_is_cut_off_is_resumed_where_it_ended(server: ReleaseServer, target: Path) -> None:
    server.troubles["/kubelet"] = Trouble(cut_after=[3000, 2000])
    get(server, target)
    assert target.read_bytes() == CONTENT
    assert server.ranges("/kubelet") == ["", "bytes=3000-", "bytes=5000-"]


def test_a_file_is_fetched_again_from_a_server_that_cannot_resume(server: ReleaseServer, target: Path) -> None:
    server.troubles["/kubelet"] = Trouble(cut_after=[3000], can_resume=False)
    get(server, target)
    assert target.read_bytes() == CONTENT


def test_what_an_interrupted_run_left_is_continued(server: ReleaseServer, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("kubelet.part").write_bytes(CONTENT[:7000])
    get(server, target)
    assert target.read_bytes() == CONTENT
    assert server.ranges("/kubelet") == ["bytes=7000-"]


@pytest.mark.parametrize("left", [b"of another file", CONTENT + b"and more"], ids=["other", "longer"])
def test_a_part_that_does_not_fit_is_fetched_again(server: ReleaseServer, target: Path, left: bytes) -> None:
    target.parent.mkdir()
    target.with_name("kubelet.part").write_bytes(left)
    get(server, target)
    assert target.read_bytes() == CONTENT


def test_a_server_that_cuts_off_every_answer_at_once_is_given_up(server: ReleaseServer, target: Path) -> None:
    server.troubles["/kubelet"] = Trouble(cut_after=[2000, *[0] * 9])
    with pytest.raises(UnavailableError, match=r"/kubelet: the connection was cut off"):
        get(server, target)
    assert not target.exists()
    assert target.with_name("kubelet.part").read_bytes() == CONTENT[:2000], "kept for the next run"


def test_a_wrong_checksum_is_an_error_and_leaves_no_file(server: ReleaseServer, target: Path) -> None:
    server.files["/kubelet.sha256"] = b"0" * 64
    with pytest.raises(
        ClusterError, match=r"kubelet has the SHA-256 [0-9a-f]{64}, but .*kubelet.sha256 says 0{64}"
    ) as it:
        get(server, target)
    assert not isinstance(it.value, UnavailableError), "nothing else is used in its place"
    assert not list(target.parent.iterdir())


def test_a_page_in_place_of_the_checksum_is_not_one(server: ReleaseServer, target: Path) -> None:
    server.files["/kubelet.sha256"] = b"<html>Please log in</html>"
    with pytest.raises(UnavailableError, match="something that is not a SHA-256: '<html>Please log in</html>'"):
        get(server, target)
    assert not server.ranges("/kubelet")


@pytest.mark.parametrize(("code", "attempts"), [(404, 1), (403, 1), (503, IMPATIENT.retries), (429, IMPATIENT.retries)])
def test_a_refusal_is_reported_and_a_busy_server_asked_again(
    server: ReleaseServer, target: Path, code: int, attempts: int
) -> None:
    server.troubles["/kubelet"] = Trouble(code=code)
    with pytest.raises(UnavailableError, match=f"{server.url}/kubelet: the server answers {code}"):
        get(server, target)
    assert len(server.ranges("/kubelet")) == attempts


def test_a_release_that_is_not_there_is_unavailable(server: ReleaseServer, target: Path) -> None:
    del server.files["/kubelet.sha256"]
    with pytest.raises(UnavailableError, match=r"kubelet\.sha256: the server answers 404 Not Found"):
        get(server, target)


def test_a_server_that_nobody_reaches_is_unavailable(target: Path) -> None:
    url = f"http://127.0.0.1:{free_ports(1)[0]}/kubelet"
    with pytest.raises(UnavailableError, match=f"{url}.sha256: cannot be reached .*refused"):
        fetch(url, f"{url}.sha256", target, IMPATIENT)


def test_a_slow_server_is_waited_for_and_the_progress_shown(
    server: ReleaseServer, target: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(download, "REPORT_SECONDS", 0.05)
    server.troubles["/kubelet"] = Trouble(seconds_a_block=0.05)
    get(server, target)
    assert target.read_bytes() == CONTENT
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 3
    assert all(line.startswith("cluster: kubelet: 0.0 MB of 0.0 MB, ") for line in lines)


def test_a_server_that_sends_nothing_more_is_asked_again(
    server: ReleaseServer, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.troubles["/kubelet"] = Trouble(stalls=1)
    get(server, target)
    assert target.read_bytes() == CONTENT
    assert "kubelet: the server sends nothing; resuming at 0.0 MB" in capsys.readouterr().err
