"""What the tests of the control plane share: the example manifest, fresh for each test."""

from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml

# A loaded machine is no failure.
hypothesis.settings.register_profile("omnipipeline", deadline=None)
hypothesis.settings.load_profile("omnipipeline")

EXAMPLE = Path(__file__).parents[2] / "examples/digits.yaml"


@pytest.fixture
def digits() -> dict[str, Any]:
    """examples/digits.yaml as it would come back from a cluster: with a namespace, a uid and a generation."""
    manifest: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text())
    manifest["metadata"] |= {"namespace": "gallery", "uid": "uid-of-digits", "generation": 1}
    return manifest
