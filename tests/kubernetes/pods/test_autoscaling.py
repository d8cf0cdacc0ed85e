"""A stage that the operator scales, on a real node: it grows under load, shrinks after it, sleeps, and wakes.

The tests below are steps: each goes on from where the one before it stopped.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.kubernetes.apiserver.operators import EXAMPLE, LABEL, Kubectl, eventually
from tests.kubernetes.pods.traffic import COLOURS, Load, Pipeline, Wish, forwarded

pytestmark = pytest.mark.pods

PATIENCE = 600
WISHES = [
    Wish(digit, colour, seed=11, steps=8) for digit, colour in zip((3, 7, 1, 0, 8, 4, 6, 2), COLOURS, strict=True)
]


def scaled(**bounds: int) -> dict[str, Any]:
    """The example, scaled by the operator, and quick to let go."""
    manifest: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    manifest["spec"]["replicas"] = 1
    own = {"targetQueueLength": 2, "scaleDownStabilizationSeconds": 20}
    manifest["spec"]["stages"][0]["autoscaling"] = own | bounds
    return manifest


def painters(kubectl: Kubectl) -> int:
    pods = kubectl.items("pods", f"{LABEL},omnipipeline.dev/role=replica")
    return sum("deletionTimestamp" not in pod["metadata"] for pod in pods)


def ready(kubectl: Kubectl) -> None:
    eventually(lambda: kubectl.condition("Ready").get("status") == "True", "a pipeline that is Ready", PATIENCE)


@pytest.fixture(scope="module")
def digits(kubectl: Kubectl, operator: str) -> Kubectl:
    kubectl.apply(scaled(minReplicas=1, maxReplicas=3))
    ready(kubectl)
    return kubectl


@pytest.fixture
def pipeline(digits: Kubectl) -> Iterator[Pipeline]:
    with forwarded(digits, "service/digits", 8000) as url:
        yield Pipeline(url)


def test_it_grows_under_load_and_shrinks_under_less_and_every_request_is_answered(
    digits: Kubectl, pipeline: Pipeline
) -> None:
    assert painters(digits) == 1
    with Load(pipeline, WISHES, users=8) as much:
        eventually(lambda: painters(digits) == 3, "two painters more", PATIENCE)
        eventually(lambda: len(pipeline.replicas()) == 3, "replicas that serve", PATIENCE)
        much.more()
    assert not much.wrong
    with Load(pipeline, WISHES, users=1) as little:
        eventually(lambda: painters(digits) == 1, "one painter again", PATIENCE)
        little.more()
    assert not little.wrong
    assert digits.condition("ScalingActive")["reason"] == "FollowsLoad"


def test_it_falls_asleep_and_a_request_wakes_it(digits: Kubectl) -> None:
    digits.apply(scaled(minReplicas=0, maxReplicas=2))
    eventually(lambda: painters(digits) == 0, "no painter", PATIENCE)
    ready(digits)
    with forwarded(digits, "service/digits", 8000) as url:
        assert Pipeline(url).fulfils(WISHES[0])
    assert painters(digits) == 1
