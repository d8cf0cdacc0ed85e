"""The exact pods of the examples. If they change, an upgrade of the operator restarts all pods.

`python -m tests.operator.planning.manifests.test_golden` writes the files. If they change, say so in CHANGELOG.md:
upgrading the operator then restarts all pods of users who edit nothing.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from omni_operator.crd.parsing import parse
from omni_operator.planning.manifests import children
from omni_operator.planning.manifests.pod import Surroundings
from omni_operator.planning.topology.cluster import cluster_topology
from tests.operator.conftest import EXAMPLES, from_cluster

GOLDEN = Path(__file__).parent / "golden"
NAMES = sorted(file.stem for file in EXAMPLES.glob("*.yaml"))


def pod_templates(name: str) -> dict[str, Any]:
    pipeline = parse(from_cluster(name))
    objects = children(pipeline, cluster_topology(pipeline), Surroundings("worker:golden"), "keys")
    return {child["metadata"]["name"]: child["spec"]["template"] for child in objects if child["kind"] == "Deployment"}


def text(name: str) -> str:
    return json.dumps(pod_templates(name), indent=1, sort_keys=True) + "\n"


@pytest.mark.parametrize("name", NAMES)
def test_an_upgrade_of_the_operator_restarts_no_pod(name: str) -> None:
    assert (GOLDEN / f"{name}.json").read_text() == text(name), "see the top of this file"


def test_no_file_is_left_of_an_example_that_is_gone() -> None:
    assert sorted(file.stem for file in GOLDEN.glob("*.json")) == NAMES


if __name__ == "__main__":
    for example in NAMES:
        (GOLDEN / f"{example}.json").write_text(text(example))
