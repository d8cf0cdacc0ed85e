"""The life of one pipeline on a real node, step by step: installed, served, scaled, edited, deleted.

The tests below are steps: each goes on from where the one before it stopped.
"""

import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from PIL import Image

from omni_worker.models.digits_reader import read
from tests.kubernetes.apiserver.operators import CHILDREN, EXAMPLE, LABEL, Kubectl, eventually
from tests.kubernetes.documented import WITH_PODS
from tests.kubernetes.pods.conftest import END_SECONDS
from tests.kubernetes.pods.traffic import COLOURS, Pipeline, Wish, forwarded

pytestmark = pytest.mark.pods

# `pipeline` forwards a port; and no container here has ended, so none has logs of a previous one.
# Patience for pods that load a model while two cores do all the rest.
PATIENCE = 600
WISHES = [Wish(digit, colour, seed=11) for digit, colour in zip((3, 7, 1, 0, 8, 4, 6, 2), COLOURS, strict=True)]


@pytest.fixture(scope="module")
def digits(kubectl: Kubectl, operator: str) -> Kubectl:
    """The example, applied as its reader would."""
    kubectl("apply", "-f", str(EXAMPLE))
    return kubectl


@pytest.fixture
def pipeline(digits: Kubectl) -> Iterator[Pipeline]:
    """The way to the pipeline's API, once it is Ready."""
    ready(digits)
    with forwarded(digits, "service/digits", 8000) as url:
        yield Pipeline(url)


def ready(kubectl: Kubectl, generation: int | None = None) -> None:
    """Wait until the status says Ready of this generation of the spec, or of the present one."""
    wanted = generation or kubectl.get("op", "digits")["metadata"]["generation"]

    def is_so() -> bool:
        condition = kubectl.condition("Ready")
        return condition.get("status") == "True" and condition["observedGeneration"] >= wanted

    eventually(is_so, "a pipeline that is Ready", PATIENCE)


def fulfilled(pipeline: Pipeline, wishes: list[Wish]) -> bool:
    """Ask for all at once. True where every picture shows what was asked for."""
    with ThreadPoolExecutor(len(wishes)) as pool:
        answers = list(pool.map(pipeline.fulfils, wishes))
    print("not as asked:", [wish.prompt for wish, is_right in zip(wishes, answers, strict=True) if not is_right])
    return all(answers)


def pods(kubectl: Kubectl, role: str) -> list[dict[str, Any]]:
    return kubectl.items("pods", f"{LABEL},omnipipeline.dev/role={role}")


def names(kubectl: Kubectl) -> set[str]:
    return {pod["metadata"]["name"] for pod in pods(kubectl, "replica")}


def test_the_example_becomes_a_head_and_two_painters_with_a_gpu_each(digits: Kubectl) -> None:
    ready(digits)
    assert sorted(digits.children()) == CHILDREN
    status = digits.get("op", "digits")["status"]
    assert (status["replicas"], status["readyReplicas"]) == (2, 2)
    assert digits.condition("Progressing")["status"] == "False"
    (head,) = pods(digits, "head")
    assert "nvidia.com/gpu" not in str(head["spec"]["containers"][0].get("resources"))
    painters = pods(digits, "replica")
    assert len(painters) == 2
    for pod in painters:
        assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_eight_requests_at_once_come_back_as_what_was_asked_for_from_both_painters(pipeline: Pipeline) -> None:
    assert fulfilled(pipeline, WISHES)
    # Replicas tell of their work with their next heartbeat.
    eventually(lambda: sum(pipeline.completed().values()) == len(WISHES), "all eight requests, counted")
    assert all(pipeline.completed().values()), pipeline.completed()


def typed(kubectl: Kubectl, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`kubectl omni …` in the context of this namespace, with nothing of this machine's own state in sight."""
    file = folder / "contexts.kubeconfig"
    config = str(file) if file.exists() else kubectl.in_contexts(folder)
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "KUBECONFIG": config}
    command = ["kubectl", "omni", *arguments, "--context=here"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=folder)


def told(done: subprocess.CompletedProcess[str]) -> Any:
    """What a command answers in JSON."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_commands_find_the_pipeline_through_the_kubeconfig(digits: Kubectl, tmp_path: Path) -> None:
    ready(digits)
    (stage,) = told(typed(digits, tmp_path, "status", "--output=json"))["stages"]
    assert {each["host"] for each in stage["replicas"] if each["state"] == "UP"} == names(digits)
    assert told(typed(digits, tmp_path, "top", "--once", "--output=json"))["stages"][0]["name"] == "painter"
    models = told(typed(digits, tmp_path, "models", "--output=json"))
    assert (models["models"], models["stages"][0]["pipeline"]) == (["digits"], "QwenImagePipeline")
    done = typed(digits, tmp_path, "bench", "--requests=4", "--mix=2x32x32", "--no-warm-up", "--output=json")
    figures = told(done)["pipelines"][0]["figures"][0]
    assert (figures["requests"], figures["errors"]) == (4, 0)
    wish = WISHES[0]
    done = typed(digits, tmp_path, "generate", wish.prompt, "-o", "drawn.png", "--steps=4", "--seed=11", "--json")
    assert told(done)["pictures"] == [{"file": "drawn.png", "seed": 11}]
    seen = read(Image.open(tmp_path / "drawn.png"))
    assert (seen.digit, seen.colour) == (wish.digit, wish.colour)


@pytest.mark.parametrize("command", ["status", "top", "models", "bench", "generate"])
def test_a_wrong_name_is_told_with_the_right_one(digits: Kubectl, tmp_path: Path, command: str) -> None:
    more = ["a red three", "-o", "drawn.png"] if command == "generate" else []
    done = typed(digits, tmp_path, command, *more, "--pipeline=letters")
    assert done.returncode == 1
    message = f"there is no pipeline letters in namespace {digits.namespace}; there are: digits"
    assert done.stderr == f"omni {command}: {message}\n"


@pytest.mark.parametrize("command", WITH_PODS)
def test_a_documented_command_about_pods_is_answered(digits: Kubectl, command: str) -> None:
    _, *words = command.replace("omni-system", digits.namespace).split()
    assert digits(*words)


def test_kubectl_scale_adds_a_painter_that_serves(digits: Kubectl, pipeline: Pipeline) -> None:
    before = names(digits)
    digits("scale", "op/digits", "--replicas=3")
    eventually(lambda: len(pipeline.replicas()) == 3, "a third replica", PATIENCE)
    ready(digits)
    (new,) = names(digits) - before
    assert fulfilled(pipeline, WISHES)
    eventually(lambda: pipeline.completed()[new], "a request that the new painter served")
    assert digits.get("op", "digits")["status"]["stages"][0]["desired"] == 3


BROKEN = {
    "an image that is not there": (
        "localhost/omnipipeline/worker:not-there",
        "ImagePullBackOff",
        "the image localhost/omnipipeline/worker:not-there cannot be pulled",
    ),
    "an image that cannot serve": (
        "localhost/omnipipeline/operator:dev",
        "CrashLoopBackOff",
        "keeps ending: exit code 1: omni serve: the package",
    ),
}


@pytest.mark.parametrize("row", BROKEN)
def test_a_broken_image_stops_at_one_painter_and_the_others_go_on_serving(
    digits: Kubectl, pipeline: Pipeline, row: str
) -> None:
    image, reason, message = BROKEN[row]
    before, (head,) = names(digits), pods(digits, "head")
    digits("patch", "op", "digits", "--type=merge", "-p", json.dumps({"spec": {"image": {"name": image}}}))
    stuck = eventually(
        lambda: (found := digits.condition("Progressing")).get("reason") == reason and found,
        "a status that says what keeps the new image from serving",
        PATIENCE,
    )
    assert stuck["status"] == "False"
    assert message in stuck["message"]
    assert digits.condition("HeadReady")["status"] == "True"
    assert fulfilled(pipeline, WISHES)
    # The painter that made room may still be on its way out.
    eventually(lambda: len(names(digits) & before) == 2, "two of the painters of before")
    assert [pod["metadata"]["uid"] for pod in pods(digits, "head")] == [head["metadata"]["uid"]]
    eventually(lambda: digits.condition("Degraded").get("status") == "True", "a status that tells people to look")
    digits("patch", "op", "digits", "--type=merge", "-p", '{"spec": {"image": {"name": null}}}')
    ready(digits)


def test_an_edit_removes_painters_which_finish_what_they_were_doing(digits: Kubectl, pipeline: Pipeline) -> None:
    eventually(pipeline.is_idle, "replicas that report that they are idle")
    long = [Wish(3, "red", seed=seed, steps=250) for seed in range(3)]
    ids = [f"long-{seed}" for seed in range(3)]
    with ThreadPoolExecutor(3) as pool:
        drawing = [pool.submit(pipeline.draw, wish, request_id) for wish, request_id in zip(long, ids, strict=True)]
        spread = eventually(lambda: len(found := pipeline.running()) == 3 and found, "three requests that run")
        assert len(set(spread.values())) == 3, spread
        manifest = yaml.safe_load(EXAMPLE.read_text())
        manifest["spec"]["replicas"] = 1
        digits.apply(manifest)
        leaving = eventually(
            lambda: [pod for pod in pods(digits, "replica") if pod["metadata"].get("deletionTimestamp")],
            "painters that leave",
        )
        assert not any(each.done() for each in drawing), "the requests were too short to tell"
        pictures = [each.result() for each in drawing]
    assert len(pictures) == 3
    assert leaving
    eventually(lambda: len(names(digits)) == 1, "the end of the painters", PATIENCE)
    ready(digits)
    assert set(pipeline.replicas()) == names(digits)
    assert fulfilled(pipeline, WISHES)


def test_suspended_it_keeps_all_but_its_pods_and_serves_again_when_it_is_resumed(digits: Kubectl) -> None:
    before = {name: child["metadata"]["uid"] for name, child in digits.children().items()}
    digits("patch", "op", "digits", "--type=merge", "-p", '{"spec": {"suspend": true}}')
    eventually(lambda: digits.condition("Suspended").get("status") == "True", "the suspension", PATIENCE)
    eventually(lambda: not digits.items("pods", LABEL), "the end of the pods", END_SECONDS)
    assert {name: child["metadata"]["uid"] for name, child in digits.children().items()} == before
    digits("patch", "op", "digits", "--type=merge", "-p", '{"spec": {"suspend": false}}')
    ready(digits)
    with forwarded(digits, "service/digits", 8000) as url:
        assert fulfilled(Pipeline(url), WISHES)


def test_with_a_certificate_it_speaks_https_and_omni_finds_it_as_before(digits: Kubectl, tmp_path: Path) -> None:
    chain, key, picture = tmp_path / "tls.crt", tmp_path / "tls.key", tmp_path / "three.png"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    made += ["-subj", "/CN=digits", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(chain)]
    subprocess.run(made, check=True, capture_output=True)
    digits("create", "secret", "tls", "certificate", f"--cert={chain}", f"--key={key}")
    # The rest is for the test after this one, so that the head starts anew once and not twice.
    spec = {"api": {"tls": {"secretName": "certificate"}}, "head": {"localReplicas": 2}}
    spec |= {"loadBalancing": {"heartbeatTimeoutSeconds": 5}}
    digits("patch", "op", "digits", "--type=merge", "-p", json.dumps({"spec": spec}))
    ready(digits)
    with forwarded(digits, "service/digits", 8000) as url:
        context = ssl.create_default_context(cafile=chain)
        answer = httpx.get(f"{url.replace('http://127.0.0.1', 'https://localhost')}/readyz", verify=context)
    assert answer.status_code == 200
    command = [sys.executable, "-m", "omni_worker.commands.cli", "generate", "a red three", "-o", str(picture)]
    command += ["--pipeline", "digits", "--namespace", digits.namespace]
    drawn = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "KUBECONFIG": digits.kubeconfig, "OMNI_URL": ""}
    )
    assert drawn.returncode == 0, drawn.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_replica_that_is_missing_in_the_head_is_told_of_while_the_others_serve(digits: Kubectl) -> None:
    (head,) = pods(digits, "head")
    code = """
import os, pathlib, signal, sys
files = pathlib.Path("/proc").glob("[0-9]*/comm")
replicas = [int(file.parent.name) for file in files if file.read_text().strip() == "omni replica"]
os.kill(min(replicas), getattr(signal, sys.argv[1]))
"""

    def signalled(name: str) -> None:
        digits("exec", head["metadata"]["name"], "--", "python3", "-c", code, name)

    signalled("SIGSTOP")
    # On a busy machine the other one may be thought lost as well, for a moment.
    told = eventually(
        lambda: (
            "a replica inside it does not serve" in (found := digits.condition("Ready")).get("message", "") and found
        ),
        "a status that says so",
        PATIENCE,
    )
    assert (told["status"], told["reason"]) == ("False", "ReplicaDown")
    assert (digits.condition("HeadReady")["status"], digits.condition("Degraded")["status"]) == ("True", "True")
    assert [pod["metadata"]["uid"] for pod in pods(digits, "head")] == [head["metadata"]["uid"]]
    signalled("SIGCONT")
    ready(digits)


def test_the_operator_was_refused_nothing(digits: Kubectl, operator: str) -> None:
    log = digits("logs", operator, "--tail=-1")
    assert "forbidden" not in log.lower()
    assert "Traceback" not in log


def test_deleting_the_pipeline_removes_every_child(digits: Kubectl) -> None:
    digits("delete", "op", "digits")
    eventually(lambda: not digits.children(), "the end of the children", PATIENCE)
    eventually(lambda: not digits.items("pods", LABEL), "the end of the pods", END_SECONDS)


def test_a_pipeline_that_asks_for_more_gpus_than_there_are_says_so(digits: Kubectl) -> None:
    there = sum(int(node["status"]["allocatable"].get("nvidia.com/gpu", 0)) for node in digits.items("nodes"))
    manifest = yaml.safe_load(EXAMPLE.read_text())
    manifest["spec"]["replicas"] = 1
    stage = manifest["spec"]["stages"][0]
    stage["accelerator"]["count"] = there + 1
    stage["parallelism"] = {"cfg": there + 1}
    digits.apply(manifest)
    blocked = eventually(
        lambda: (found := digits.condition("Ready")).get("reason") == "Unschedulable" and found,
        "a status that says what is missing",
        PATIENCE,
    )
    assert blocked["status"] == "False"
    assert "Insufficient nvidia.com/gpu" in blocked["message"]
    digits("delete", "op", "digits")
