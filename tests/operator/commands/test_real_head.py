"""The commands with a real head and a real replica, and how a shell and kubectl find them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.operator.commands.conftest import Omni
from tests.worker.serving import Process, eventually, free_ports

pytestmark = pytest.mark.processes
COMMANDS = "omni_operator.commands"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    api, master, router, pub, data = free_ports(5)
    process = Process(
        "builtin://digits", "--host", "127.0.0.1", "--port", str(api), "--omni-dp-size-local", "1",
        "--omni-master-port", str(master), "--omni-coordinator-port", str(router), "--omni-coordinator-pub-port",
        str(pub), "--omni-replica-port", str(data), port=api,
    )  # fmt: skip
    try:
        eventually(process.is_ready, "ready")
        yield f"http://127.0.0.1:{api}"
    finally:
        process.close()


def test_every_command_works_with_a_real_pipeline(url: str, omni: Omni, tmp_path: Path) -> None:
    code, text = omni(f"{COMMANDS}.status", "--url", url, "-o", "json")
    assert (code, json.loads(text)["stages"][0]["pipeline"]) == (0, "QwenImagePipeline")
    (stage,) = json.loads(omni(f"{COMMANDS}.models", "--url", url, "-o", "json")[1])["stages"]
    assert (stage["mode"], stage["replicas"]) == ("step", 1)
    code, text = omni("omni_operator.commands.bench.command", url, "--requests", "6", "--mix", "2x32x32", "-o", "json")
    figures = json.loads(text)["pipelines"][0]["figures"][0]
    assert (code, figures["requests"], figures["errors"]) == (0, 6, 0)
    image = tmp_path / "three.png"
    output = json.loads(
        omni("omni_operator.commands.generate", "a red three", "--url", url, "--json", "-o", str(image))[1]
    )
    assert output["pictures"][0]["file"] == str(image)
    assert "UP" in omni(f"{COMMANDS}.top", "--once", "--interval", "0.2", "--url", url)[1]


def test_bash_completes_commands() -> None:
    script = subprocess.run(
        [sys.executable, "-m", "omni_worker.commands.cli", "completion", "bash"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    program = f"{script}\nCOMP_WORDS=(omni sta); COMP_CWORD=1; _shtab_omni; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    answer = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["status"]


def test_kubectl_runs_omni_as_a_plugin(url: str) -> None:
    beside = Path(sys.executable).parent
    if not shutil.which("kubectl-omni", path=str(beside)) or not shutil.which("kubectl", path=str(beside)):
        pytest.skip("kubectl-omni and kubectl are not installed beside this Python")
    environment = {**os.environ, "PATH": f"{beside}:{os.environ['PATH']}"}
    answer = subprocess.run(
        ["kubectl", "omni", "status", "--url", url], env=environment, capture_output=True, text=True, check=False
    )
    assert (answer.returncode, "ready" in answer.stdout) == (0, True), answer.stderr
