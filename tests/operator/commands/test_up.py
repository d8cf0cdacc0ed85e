"""`omni up` as a user runs it: real commands, real worker processes, the built-in model."""

import os
import signal
import socket
from pathlib import Path

import httpx
import pytest

from tests.operator.commands.omni_processes import EXAMPLES, OmniUp, eventually, run_omni, running_command_lines

pytestmark = pytest.mark.processes
EXAMPLE = str(EXAMPLES / "digits.yaml")
PROMPT = "a red three on black background"
MANIFEST = """
apiVersion: omnipipeline.dev/v1alpha1
kind: OmniPipeline
metadata: {name: digits}
spec:
  model: {source: builtin://digits}
  stages:
  - {name: painter, engine: diffusion}
"""


def test_it_prints_what_starts_and_how_to_use_it(up: OmniUp) -> None:
    eventually(lambda: "omni generate" in up.messages(), "the hint to use omni generate")
    messages = up.messages()
    assert "pipeline digits: builtin://digits, a head, 2 × painter" in messages
    assert "painter-1: ready" in messages


def test_the_api_serves_the_pipeline_by_its_name(up: OmniUp) -> None:
    models = httpx.get(f"{up.url}/v1/models").json()["data"]
    assert [model["id"] for model in models] == ["digits"]


def test_only_this_user_can_read_the_secret_of_a_run(up: OmniUp) -> None:
    (file,) = up.folder.glob("omnipipeline/up/*/secret")
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(file.read_text()) >= 32


def test_a_killed_replica_restarts_and_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    up = OmniUp(tmp_path, EXAMPLE, "--port=0")
    try:
        url = up.first_line().split()[1]
        killed = next(
            int(process.name)
            for process in Path("/proc").glob("[0-9]*")
            if str(tmp_path).encode() in environment_of(process) and b"--headless" in command_line_of(process)
        )
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: "was killed by SIGKILL" in up.messages(), "the report of the killed replica")
        response = httpx.post(f"{url}/v1/images/generations", json={"prompt": PROMPT, "steps": 1}, timeout=600)
        assert response.status_code == 200, "the other replica serves"
        eventually(lambda: ready_count(up) == 4, "the restart of the replica")
        assert up.stop() == 0
        assert "stopping" in up.messages()
        assert running_command_lines(tmp_path) == []
        assert not list(tmp_path.glob("omnipipeline/up/*")), "a run that ended well deletes its logs"
    finally:
        up.close()


def ready_count(up: OmniUp) -> int:
    return up.messages().count(": ready\n")


def environment_of(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:
        return b""


def command_line_of(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def test_no_process_outlives_a_killed_omni_up(tmp_path: Path) -> None:
    up = OmniUp(tmp_path, EXAMPLE, "--port=0")
    try:
        up.first_line()
        assert len(running_command_lines(tmp_path)) >= 4
        up.process.kill()
        up.process.wait()
        eventually(lambda: running_command_lines(tmp_path) == [], "the end of every process")
    finally:
        up.close()


REJECTED: dict[str, tuple[str, list[str], int, str]] = {
    "a missing file": ("", ["missing.yaml"], 2, "missing.yaml: there is no such file"),
    "no file": ("", [], 2, "the following arguments are required: FILE"),
    "a bad port": (MANIFEST, ["bad.yaml", "--port=http"], 2, "'http' is not a port; give a number from 1 to"),
    "a bad time": (MANIFEST, ["bad.yaml", "--timeout=-1"], 2, "'-1' is not a time"),
    "broken YAML": ("a: [1\n", ["bad.yaml"], 2, "bad.yaml: not YAML: line 2"),
    "a negative count": (MANIFEST.replace("{name: p", "{replicas: -1, name: p"), ["bad.yaml"], 2, "-1 is negative"),
    "an unknown key": (
        MANIFEST.replace("{name: p", "{replica: 1, name: p"),
        ["bad.yaml"],
        2,
        "did you mean 'replicas'",
    ),
    "a stage's model in a cluster's volume": (
        MANIFEST.replace("{name: p", "{model: {source: 'pvc://weights/digits'}, name: p"),
        ["bad.yaml"],
        2,
        "spec.stages[0].model.source: pvc://weights/digits is a volume of a cluster",
    ),
    "two stages with one name": (
        f"{MANIFEST}  - {{name: painter, engine: diffusion}}\n",
        ["bad.yaml"],
        2,
        "spec.stages[1].name: 'painter' is already the name of spec.stages[0]",
    ),
    "a model in a cluster's volume": (
        MANIFEST.replace("builtin://digits", "pvc://weights/digits"),
        ["bad.yaml"],
        2,
        "spec.model.source: pvc://weights/digits is a volume of a cluster",
    ),
    "a model in an image": (
        MANIFEST.replace("builtin://digits", "oci://registry/digits:1"),
        ["bad.yaml"],
        2,
        "spec.model.source: oci://registry/digits:1 is an image, which only a cluster mounts; give `omni up` the",
    ),
    "a missing folder": (
        MANIFEST.replace("builtin://digits", "/no/such/model"),
        ["bad.yaml"],
        1,
        "spec.model.source: there is no folder /no/such/model on this machine",
    ),
    "an unknown built-in model": (
        MANIFEST.replace("builtin://digits", "builtin://letters"),
        ["bad.yaml", "--port=0"],
        1,
        "no such built-in model; there are: builtin://digits",
    ),
}


@pytest.mark.parametrize("row", REJECTED)
def test_a_bad_manifest_or_option_is_reported_and_starts_nothing(tmp_path: Path, row: str) -> None:
    manifest, arguments, code, message = REJECTED[row]
    (tmp_path / "bad.yaml").write_text(manifest)
    result = run_omni(tmp_path, "up", *arguments)
    assert result.returncode == code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert running_command_lines(tmp_path) == []


def test_a_busy_port_is_reported(tmp_path: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        result = run_omni(tmp_path, "up", EXAMPLE, f"--port={port}")
    assert result.returncode == 1
    assert f"omni up: port {port} is in use by another program on this machine" in result.stderr
