"""Rejections by clusters that lack what a pod needs."""

from typing import Any

import pytest

from omni_operator.planning.cluster_features import missing_image_volumes

# By Kubernetes 1.20, which does not know the field; and by one that drops it, because its feature gate is off.
UNKNOWN = (
    'failed to create typed patch object: .spec.template.spec.volumes[name="%s"].image: field not declared in schema'
)
DROPPED = "Deployment.apps is invalid: spec.template.spec.volumes[%d]: Required value: must specify a volume type"


def deployment() -> dict[str, Any]:
    volumes = [{"name": "tmp", "emptyDir": {}}, {"name": "model-image", "image": {"reference": "registry/sdxl:1"}}]
    return {"kind": "Deployment", "metadata": {"name": "a"}, "spec": {"template": {"spec": {"volumes": volumes}}}}


@pytest.mark.parametrize("error", [UNKNOWN % "model-image", DROPPED % 1])
def test_a_server_without_image_volumes_is_told_from_its_rejection(error: str) -> None:
    failure = missing_image_volumes(deployment(), error)
    assert failure
    assert failure.reason == "ImageVolumesMissing"
    assert failure.message.startswith(
        "Deployment a cannot be made: this cluster cannot mount the image registry/sdxl:1"
    )


@pytest.mark.parametrize("error", [UNKNOWN % "tmp", DROPPED % 0, "spec.replicas: Invalid value", ""])
def test_other_rejections_are_not_about_images(error: str) -> None:
    assert missing_image_volumes(deployment(), error) is None


def test_an_image_volume_of_a_users_template_is_one_too() -> None:
    child = deployment()
    child["spec"]["template"]["spec"]["volumes"].append({"name": "own", "image": {"reference": "registry/own:1"}})
    failure = missing_image_volumes(child, UNKNOWN % "own")
    assert failure
    assert "registry/own:1" in failure.message
