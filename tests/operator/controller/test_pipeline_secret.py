"""The secret of a pipeline's pods: made once, kept, and made again only where there is none that serves."""

import base64
from collections.abc import Mapping
from typing import Any

import pytest

from omni_operator.controller.pipeline_secret import NotOurs, shared_secret
from omni_operator.crd.objects import Object
from omni_operator.crd.parsing import parse
from omni_operator.kube.client import Cluster
from omni_operator.kube.resources import Resource


class Secrets(Cluster):
    """A cluster that holds Secrets, and counts what is written."""

    def __init__(self) -> None:
        self.held: dict[str, Object] = {}
        self.writes = 0

    def get(self, resource: Resource, namespace: str, name: str) -> Object | None:
        assert resource.kind == "Secret"
        return self.held.get(name)

    def apply(self, resource: Resource, child: Mapping[str, Any], force: bool) -> Object:
        assert resource.kind == "Secret"
        self.writes += 1
        self.held[child["metadata"]["name"]] = dict(child)
        return dict(child)

    def edit(self, content: str | None) -> None:
        self.held["digits-keys"]["data"] = {"secret": base64.b64encode(content.encode()).decode()} if content else None


def test_it_is_made_once_and_kept(digits: dict[str, Any]) -> None:
    cluster = Secrets()
    first = shared_secret(cluster, parse(digits))
    assert len(bytes.fromhex(first)) == 32
    assert shared_secret(cluster, parse(digits)) == first
    assert cluster.writes == 1


def test_pipelines_have_secrets_of_their_own(digits: dict[str, Any], two: dict[str, Any]) -> None:
    cluster = Secrets()
    assert shared_secret(cluster, parse(digits)) != shared_secret(cluster, parse(two))


EDITS: dict[str, tuple[str | None, bool]] = {
    "one that someone chose is taken": ("chosen by hand: " + "x" * 32, True),
    "one with a line end is taken as it is": ("x" * 32 + "\n", True),
    "one that is too short is replaced": ("x" * 31, False),
    "one that is nothing but space is replaced": (" " * 99, False),
    "one without content is replaced": (None, False),
}


@pytest.mark.parametrize("row", EDITS)
def test_a_secret_that_someone_edited(digits: dict[str, Any], row: str) -> None:
    content, is_kept = EDITS[row]
    cluster = Secrets()
    first = shared_secret(cluster, parse(digits))
    cluster.edit(content)
    after = shared_secret(cluster, parse(digits))
    assert (after == content) is is_kept
    assert after != first
    assert cluster.writes == (1 if is_kept else 2)


def test_a_deleted_one_is_followed_by_another(digits: dict[str, Any]) -> None:
    cluster = Secrets()
    first = shared_secret(cluster, parse(digits))
    cluster.held.clear()
    assert shared_secret(cluster, parse(digits)) != first


def test_one_of_someone_else_is_left_alone(digits: dict[str, Any]) -> None:
    cluster = Secrets()
    shared_secret(cluster, parse(digits))
    digits["metadata"]["uid"] = "uid-of-a-later-digits"
    with pytest.raises(NotOurs, match="Secret digits-keys exists and is not ours; rename it, or the pipeline"):
        shared_secret(cluster, parse(digits))
    assert cluster.writes == 1
