"""Every object of a pipeline: which there are, and what all of them have."""

from typing import Any

from omni_operator.planning.manifests.ownership import SPEC_HASH, controller_uid
from tests.operator.edits import edited
from tests.operator.rendered import rendered


def test_a_pipeline_is_these_objects(digits: dict[str, Any]) -> None:
    assert list(rendered(digits)) == [
        ("ServiceAccount", "digits"),
        ("ConfigMap", "digits"),
        ("Service", "digits-head"),
        ("Service", "digits"),
        ("NetworkPolicy", "digits"),
        ("PodDisruptionBudget", "digits-painter"),
        ("Deployment", "digits-head"),
        ("Deployment", "digits-painter"),
    ]


def test_every_object_is_owned_and_labelled(digits: dict[str, Any]) -> None:
    for child in rendered(digits).values():
        metadata = child["metadata"]
        assert metadata["namespace"] == "gallery"
        assert controller_uid(child) == "uid-of-digits"
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "omni-operator"
        assert metadata["labels"]["omnipipeline.dev/pipeline"] == "digits"
        assert metadata["annotations"][SPEC_HASH]


def test_the_same_manifest_makes_the_same_objects(digits: dict[str, Any]) -> None:
    assert rendered(digits) == rendered(edited(digits, {}))
