"""What the tests of the control plane share: the example manifests, fresh for each test."""

from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml

# A loaded machine is no failure.
hypothesis.settings.register_profile("omnipipeline", deadline=None)
hypothesis.settings.load_profile("omnipipeline")

EXAMPLES = Path(__file__).parents[2] / "examples"


def from_cluster(name: str) -> dict[str, Any]:
    """An example as it would come back from a cluster: with a namespace, a uid and a generation."""
    manifest: dict[str, Any] = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())
    manifest["metadata"] |= {"namespace": "gallery", "uid": f"uid-of-{name}", "generation": 1}
    return manifest


@pytest.fixture
def digits() -> dict[str, Any]:
    """The pipeline of one stage: a painter."""
    return from_cluster("digits")


@pytest.fixture
def two() -> dict[str, Any]:
    """The pipeline of two stages: a thinker, and a painter that takes its hidden states."""
    manifest = from_cluster("digits-thinker")
    manifest["metadata"] |= {"name": "two", "uid": "uid-of-two"}
    return manifest
