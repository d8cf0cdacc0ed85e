"""A thinker and a painter on a real node: asked together, scaled and rolled one by one, and never a request lost.

The tests below are steps, as in test_serving.py: each goes on from where the one before it stopped.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.kubernetes.apiserver.operators import EXAMPLE_OF_TWO, LABEL, Kubectl, eventually
from tests.kubernetes.pods.conftest import END_SECONDS
from tests.kubernetes.pods.traffic import Load, Pipeline, Sum, forwarded

pytestmark = pytest.mark.pods

NAME = "digits-thinker"
STAGES = ("thinker", "painter")
PATIENCE = 600
SUMS = [
    Sum(digit, colour, number=number)
    for digit, colour, number in ((7, "blue", 2), (3, "red", 1), (8, "green", 4), (5, "yellow", 0), (9, "white", 6))
]
USERS = 3


@pytest.fixture(scope="module")
def two(kubectl: Kubectl, operator: str) -> Kubectl:
    """The example, applied as its reader would."""
    kubectl("apply", "-f", str(EXAMPLE_OF_TWO))
    return kubectl


@pytest.fixture
def pipeline(two: Kubectl) -> Iterator[Pipeline]:
    """The way to the pipeline's API, once it is Ready."""
    ready(two)
    with forwarded(two, f"service/{NAME}", 8000) as url:
        yield Pipeline(url, NAME)


def ready(kubectl: Kubectl) -> None:
    """Wait until the status says Ready of the present generation of the spec."""
    wanted = kubectl.get("op", NAME)["metadata"]["generation"]

    def is_so() -> bool:
        condition = kubectl.condition("Ready", NAME)
        return condition.get("status") == "True" and condition["observedGeneration"] >= wanted

    eventually(is_so, "a pipeline that is Ready", PATIENCE)


def scaled(kubectl: Kubectl, **counts: int) -> None:
    """Edit the counts of stages, as a user would: the manifest, applied again."""
    manifest = yaml.safe_load(EXAMPLE_OF_TWO.read_text())
    for stage in manifest["spec"]["stages"]:
        stage["replicas"] = counts[stage["name"]]
    kubectl.apply(manifest)


def names(kubectl: Kubectl, stage: str) -> set[str]:
    selector = f"{LABEL},omnipipeline.dev/role=replica,omnipipeline.dev/stage={stage}"
    pods: list[dict[str, Any]] = kubectl.items("pods", selector)
    return {pod["metadata"]["name"] for pod in pods}


def test_a_sum_becomes_a_picture_of_its_result(two: Kubectl, pipeline: Pipeline) -> None:
    wish = SUMS[0]
    assert wish.prompt == "two plus five, in blue"
    assert pipeline.fulfils(wish)
    stages = two.get("op", NAME)["status"]["stages"]
    assert [(stage["name"], stage["ready"]) for stage in stages] == [("thinker", 1), ("painter", 1)]


def test_the_thinkers_words_can_be_had_too(pipeline: Pipeline) -> None:
    assert "a blue seven" in pipeline.written("two plus five, in blue")


def test_the_secret_is_for_the_pods_and_their_group_alone(two: Kubectl, pipeline: Pipeline) -> None:
    code = "import os; f = '/etc/omnipipeline-keys/secret'; print(oct(os.stat(f).st_mode & 0o777), open(f).read())"
    told = {two("exec", pod, "--", "python3", "-c", code) for pod in names(two, "thinker") | names(two, "painter")}
    (line,) = told
    mode, secret = line.split()
    assert mode == "0o440"
    assert len(secret) >= 32


def test_each_stage_is_scaled_by_itself(two: Kubectl, pipeline: Pipeline) -> None:
    thinkers, painters = names(two, "thinker"), names(two, "painter")
    scaled(two, thinker=1, painter=2)
    eventually(lambda: len(pipeline.replicas("painter")) == 2, "a second painter", PATIENCE)
    assert names(two, "thinker") == thinkers
    scaled(two, thinker=2, painter=2)
    eventually(lambda: len(pipeline.replicas("thinker")) == 2, "a second thinker", PATIENCE)
    ready(two)
    assert painters < names(two, "painter")
    assert thinkers < names(two, "thinker")


def test_no_request_is_lost_while_stages_are_rolled_killed_and_scaled_down(two: Kubectl, pipeline: Pipeline) -> None:
    def replaced(gone: set[str]) -> bool:
        """Whether none of these pods is left, and two of each stage serve."""
        there = {stage: names(two, stage) for stage in STAGES}
        return all(not there[stage] & gone and len(pipeline.replicas(stage)) == 2 for stage in STAGES)

    with Load(pipeline, SUMS, USERS) as load:
        load.more()
        before = set().union(*(names(two, stage) for stage in STAGES))
        two("rollout", "restart", *(f"deployment/{NAME}-{stage}" for stage in STAGES))
        eventually(lambda: replaced(before), "other pods, all of them", PATIENCE)
        load.more()
        victims = {min(names(two, stage)) for stage in STAGES}
        two("delete", "pod", *victims, "--wait=false")
        eventually(lambda: replaced(victims), "two other pods", PATIENCE)
        load.more()
        for counts in ({"thinker": 2, "painter": 1}, {"thinker": 1, "painter": 1}):
            scaled(two, **counts)
            eventually(
                lambda counts=counts: all(len(names(two, stage)) == counts[stage] for stage in STAGES),
                "fewer pods",
                PATIENCE,
            )
            load.more()
    print(f"{len(load.right)} requests came out as asked for")
    assert load.wrong == []


def test_deleting_the_pipeline_removes_every_child(two: Kubectl) -> None:
    two("delete", "op", NAME)
    eventually(lambda: not two.children(), "the end of the children", PATIENCE)
    eventually(lambda: not two.items("pods", LABEL), "the end of the pods", END_SECONDS)
