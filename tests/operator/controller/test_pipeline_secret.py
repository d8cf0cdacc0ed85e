"""The secret of a pipeline's pods: generated once, kept, and replaced only if it is missing or too short."""

import base64
from collections.abc import Mapping
from typing import Any

import pytest

from omni_operator.controller.errors import NameConflict
from omni_operator.controller.pipeline_secret import shared_secret
from omni_operator.crd.objects import Object
from omni_operator.crd.parsing import parse
from omni_operator.kube.client import Cluster
from omni_operator.kube.resources import Resource


class Secrets(Cluster):
    """A cluster that stores Secrets and counts the writes."""

    def __init__(self) -> None:
        self.secrets: dict[str, Object] = {}
        self.writes = 0

    def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        assert resource.kind == "Secret"
        return self.secrets.get(name)

    def apply(self, resource: Resource, child: Mapping[str, Any], force: bool) -> Object:
        assert resource.kind == "Secret"
        self.writes += 1
        self.secrets[child["metadata"]["name"]] = dict(child)
        return dict(child)

    def edit(self, content: str | None) -> None:
        self.secrets["digits-keys"]["data"] = (
            {"secret": base64.b64encode(content.encode()).decode()} if content else None
        )


def test_it_is_generated_once_and_kept(digits: dict[str, Any]) -> None:
    cluster = Secrets()
    first = shared_secret(cluster, parse(digits))
    assert len(bytes.fromhex(first)) == 32
    assert shared_secret(cluster, parse(digits)) == first
    assert cluster.writes == 1


def test_each_pipeline_has_another_secret(digits: dict[str, Any], two: dict[str, Any]) -> None:
    cluster = Secrets()
    assert shared_secret(cluster, parse(digits)) != shared_secret(cluster, parse(two))


EDITS: dict[str, tuple[str | None, bool]] = {
    "one that somebody chose is used": ("chosen by hand: " + "x" * 32, True),
    "one with a line end is used unchanged": ("x" * 32 + "\n", True),
    "one that is too short is replaced": ("x" * 31, False),
    "one of only spaces is replaced": (" " * 99, False),
    "one without content is replaced": (None, False),
}


@pytest.mark.parametrize("row", EDITS)
def test_a_secret_that_somebody_edited(digits: dict[str, Any], row: str) -> None:
    content, is_kept = EDITS[row]
    cluster = Secrets()
    first = shared_secret(cluster, parse(digits))
    cluster.edit(content)
    after = shared_secret(cluster, parse(digits))
    assert (after == content) is is_kept
    assert after != first
    assert cluster.writes == (1 if is_kept else 2)


def test_a_deleted_one_is_replaced(digits: dict[str, Any]) -> None:
    cluster = Secrets()
    first = shared_secret(cluster, parse(digits))
    cluster.secrets.clear()
    assert shared_secret(cluster, parse(digits)) != first


def test_one_that_belongs_to_something_else_is_not_touched(digits: dict[str, Any]) -> None:
    cluster = Secrets()
    shared_secret(cluster, parse(digits))
    digits["metadata"]["uid"] = "uid-of-a-later-digits"
    with pytest.raises(NameConflict, match="Secret digits-keys exists and is not ours; rename it, or the pipeline"):
        shared_secret(cluster, parse(digits))
    assert cluster.writes == 1
