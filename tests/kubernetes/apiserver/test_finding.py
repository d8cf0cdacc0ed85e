"""How `omni generate` finds a pipeline in the current cluster, and what it says while there is none that serves."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes.apiserver.operators import Kubectl, Operator, serve

pytestmark = pytest.mark.apiserver
OMNI = str(Path(sys.executable).with_name("omni"))


def generate(kubeconfig: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`omni generate`, with nothing of this machine's own state in sight."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "KUBECONFIG": kubeconfig}
    command = [OMNI, "generate", "a red three", "-o", "three.png", "--timeout=3", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, cwd=folder)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_an_empty_namespace_is_said_to_be_so(kubectl: Kubectl, tmp_path: Path) -> None:
    done = generate(kubectl.kubeconfig, tmp_path, "-n", kubectl.namespace)
    assert f"namespace {kubectl.namespace} has no pipeline: give --url" in refused(done)


def test_several_pipelines_are_listed(kubectl: Kubectl, digits: dict[str, Any], tmp_path: Path) -> None:
    kubectl.apply(digits, {**digits, "metadata": {"name": "letters"}})
    done = generate(kubectl.kubeconfig, tmp_path, "-n", kubectl.namespace)
    assert "has several pipelines (digits, letters); choose one by its name" in refused(done)


def test_an_unknown_pipeline_is_said_to_be_so(kubectl: Kubectl, tmp_path: Path) -> None:
    done = generate(kubectl.kubeconfig, tmp_path, "-n", kubectl.namespace, "--pipeline=letters")
    assert f"there is no pipeline letters in namespace {kubectl.namespace}; there are: none" in refused(done)


def test_a_context_has_its_own_namespace(kubectl: Kubectl, digits: dict[str, Any], tmp_path: Path) -> None:
    kubectl.apply(digits)
    file = kubectl.in_contexts(tmp_path)
    done = generate(file, tmp_path, "--context=here", "--pipeline=letters")
    assert f"there is no pipeline letters in namespace {kubectl.namespace}; there are: digits" in refused(done)
    done = generate(file, tmp_path, "--context=here", "-n", "default", "--pipeline=letters")
    assert "there is no pipeline letters in namespace default;" in refused(done)
    done = generate(file, tmp_path, "--pipeline=letters")
    assert "there is no pipeline letters in namespace default;" in refused(done)


def test_a_context_that_is_not_there_is_told_with_those_that_are(kubectl: Kubectl, tmp_path: Path) -> None:
    done = generate(kubectl.in_contexts(tmp_path), tmp_path, "--context=away")
    assert "has no such context; it has: elsewhere, here" in refused(done)


def test_waiting_tells_what_for(kubectl: Kubectl, operator: Operator, digits: dict[str, Any], tmp_path: Path) -> None:
    serve(kubectl, digits)
    said = refused(generate(kubectl.kubeconfig, tmp_path, "-n", kubectl.namespace))
    assert "waiting for pipeline digits: painter 0/2 ready; the head: pod digits-head-" in said
    assert "omni generate: pipeline digits did not serve within 3 s: painter 0/2 ready" in said


def test_a_pipeline_that_is_not_accepted_is_not_waited_for(
    kubectl: Kubectl, operator: Operator, digits: dict[str, Any], tmp_path: Path
) -> None:
    serve(kubectl, digits)
    digits["spec"]["head"]["template"] = {"env": []}  # the API server does not know what a template is
    kubectl.apply(digits)
    kubectl("wait", "--for=condition=Accepted=false", "op/digits", "--timeout=60s")
    said = refused(generate(kubectl.kubeconfig, tmp_path, "-n", kubectl.namespace))
    assert "pipeline digits is not accepted: spec.head.template.env: is not part of a pod template" in said


def test_a_cluster_that_does_not_answer_is_named(kubectl: Kubectl, tmp_path: Path) -> None:
    config = json.loads(kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    file = tmp_path / "gone.kubeconfig"
    file.write_text(json.dumps(config))
    said = refused(generate(str(file), tmp_path, "-n", "default"))
    assert "the API server at https://127.0.0.1:9 does not answer" in said
    assert "check the kubeconfig" in said
