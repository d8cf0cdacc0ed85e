"""The Secret of a pipeline's pods: created once, without being read, and replaced only if it is gone."""

import base64
import re
from collections.abc import Mapping
from typing import Any

import pytest

from omni_operator.controller.pipeline_secret import PipelineSecrets
from omni_operator.crd.objects import Object
from omni_operator.crd.parsing import parse
from omni_operator.kube.client import Cluster
from omni_operator.kube.errors import ApiError, Unreachable
from omni_operator.kube.resources import Resource
from tests.operator.rendered import rendered

TAKEN = ApiError(409, "AlreadyExists", "it exists")
REFUSALS = {
    "a missing right": ApiError(403, "Forbidden", 'cannot create resource "secrets"'),
    "a quota": ApiError(403, "Forbidden", "exceeded quota"),
    "a webhook that is dead": ApiError(500, "InternalError", "failed calling webhook"),
}


class Secrets(Cluster):
    """A cluster that creates Secrets, and knows no other verb."""

    def __init__(self) -> None:
        self.secrets: dict[str, Object] = {}
        self.looks = self.writes = 0
        self.refusal: ApiError | None = None

    def create(self, resource: Resource, content: Mapping[str, Any], is_dry_run: bool = False) -> Object:
        assert resource.kind == "Secret"
        self.looks += is_dry_run
        if self.refusal:
            raise self.refusal
        if (name := content["metadata"]["name"]) in self.secrets:
            raise TAKEN
        if not is_dry_run:
            self.writes += 1
            self.secrets[name] = dict(content)
        return dict(content)


def with_pods(manifest: dict[str, Any], name: str) -> list[Object]:
    """The children of a pipeline whose pods have the Secret of this name."""
    return list(rendered(manifest, name).values())


def name_of(cluster: Secrets, manifest: dict[str, Any], used: str = "") -> str:
    """What a pass of a new process uses, when the Deployments have the Secret `used`."""
    live = with_pods(manifest, used) if used else []
    return PipelineSecrets(cluster).name_for(parse(manifest), live)


def test_it_is_random_and_cannot_be_changed(digits: dict[str, Any]) -> None:
    cluster = Secrets()
    name = name_of(cluster, digits)
    assert re.fullmatch("digits-keys-[0-9a-f]{8}", name)
    secret = cluster.secrets[name]
    assert len(bytes.fromhex(base64.b64decode(secret["data"]["secret"]).decode())) == 32
    assert secret["immutable"] is True


def test_it_is_created_once_and_kept_by_every_process(digits: dict[str, Any]) -> None:
    cluster = Secrets()
    first = name_of(cluster, digits)
    assert name_of(cluster, digits, first) == first
    assert cluster.writes == 1


def test_a_new_pipeline_costs_one_call_and_the_next_passes_none_until_somebody_looks_again(
    digits: dict[str, Any],
) -> None:
    cluster, pipeline = Secrets(), parse(digits)
    secrets = PipelineSecrets(cluster)
    first = secrets.name_for(pipeline, [])
    assert secrets.name_for(pipeline, []) == first
    assert (cluster.looks, cluster.writes) == (0, 1)
    secrets.look_again((pipeline.namespace, pipeline.name))
    assert secrets.name_for(pipeline, []) == first, "also if no Deployment could be made"
    secrets.look_for_all_again()
    assert secrets.name_for(pipeline, []) == first
    assert (cluster.looks, cluster.writes) == (2, 1)


def test_a_look_that_is_asked_for_during_a_pass_is_made_by_the_next_one(digits: dict[str, Any]) -> None:
    cluster, pipeline = Secrets(), parse(digits)
    secrets, key = PipelineSecrets(cluster), (pipeline.namespace, pipeline.name)
    create = cluster.create
    cluster.create = lambda *a, **b: (secrets.look_again(key), create(*a, **b))[1]  # type: ignore[method-assign]
    first = secrets.name_for(pipeline, [])
    assert secrets.name_for(pipeline, []) == first
    assert cluster.looks == 1


def test_each_pipeline_has_another_secret(digits: dict[str, Any], two: dict[str, Any]) -> None:
    cluster = Secrets()
    assert name_of(cluster, digits) != name_of(cluster, two)


def test_a_pipeline_that_is_made_again_has_another_secret(digits: dict[str, Any]) -> None:
    cluster = Secrets()
    secrets = PipelineSecrets(cluster)
    first = secrets.name_for(parse(digits), [])
    remains = with_pods(digits, first)
    digits["metadata"]["uid"] = "uid-of-a-later-digits"
    assert secrets.name_for(parse(digits), remains) != first, "nor what is left of the former one"


def test_a_deleted_one_is_replaced_under_another_name(digits: dict[str, Any]) -> None:
    cluster = Secrets()
    first = name_of(cluster, digits)
    cluster.secrets.clear()
    second = name_of(cluster, digits, first)
    assert second != first
    assert name_of(cluster, digits, second) == second


def test_a_rotation_that_was_interrupted_goes_on_with_the_new_one(digits: dict[str, Any]) -> None:
    cluster = Secrets()
    second = name_of(cluster, digits)
    live = with_pods(digits, "digits-keys-deleted")
    stage = next(child for child in live if child["metadata"]["name"] == "digits-painter")
    rolled = rendered(digits, second)["Deployment", "digits-painter"]
    live[live.index(stage)] = rolled
    assert PipelineSecrets(cluster).name_for(parse(digits), live) == second


@pytest.mark.parametrize("row", REFUSALS)
def test_a_server_that_does_not_say_whether_it_exists_restarts_no_pod(digits: dict[str, Any], row: str) -> None:
    cluster = Secrets()
    first = name_of(cluster, digits)
    cluster.refusal = REFUSALS[row]
    assert name_of(cluster, digits, first) == first


def test_a_secret_whose_creation_was_not_answered_is_found_again(digits: dict[str, Any]) -> None:
    cluster = Secrets()
    secrets, create = PipelineSecrets(cluster), cluster.create

    def unanswered(*call: Any, **more: Any) -> Object:
        create(*call, **more)
        raise Unreachable("the connection broke")

    cluster.create = unanswered  # type: ignore[method-assign]
    with pytest.raises(Unreachable):
        secrets.name_for(parse(digits), [])
    cluster.create = create  # type: ignore[method-assign]
    assert [secrets.name_for(parse(digits), [])] == list(cluster.secrets)


@pytest.mark.parametrize("row", REFUSALS)
def test_without_a_secret_a_refusal_ends_the_pass(digits: dict[str, Any], row: str) -> None:
    cluster = Secrets()
    cluster.refusal = REFUSALS[row]
    secrets = PipelineSecrets(cluster)
    for _ in range(3):
        with pytest.raises(ApiError, match=str(cluster.refusal)):
            secrets.name_for(parse(digits), [])
    cluster.refusal = None
    assert [secrets.name_for(parse(digits), [])] == list(cluster.secrets)
