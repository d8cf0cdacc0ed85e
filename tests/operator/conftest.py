"""Fixtures of the control plane's tests: the example manifests, a new copy for each test."""

from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml

# A slow machine must not fail a test.
hypothesis.settings.register_profile("omnipipeline", deadline=None)
hypothesis.settings.load_profile("omnipipeline")

EXAMPLES = Path(__file__).parents[2] / "examples"


def from_cluster(name: str) -> dict[str, Any]:
    """An example as a cluster returns it: with a namespace, a uid and a generation."""
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
