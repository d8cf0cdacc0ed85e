"""Rejections by API servers, reported at the field of the user's template."""

from typing import Any

import pytest

from omni_operator.controller.dry_run import template_problems
from omni_operator.kube.errors import ApiError

TEMPLATE: dict[str, Any] = {
    "spec": {
        "containers": [
            {"name": "side"},
            {"name": "omni", "env": [{"name": "A", "value": 1}], "imagePullPolicy": "Now"},
        ],
        "tolerations": [{"operator": "Sort"}],
    }
}
MERGED: dict[str, Any] = {
    "spec": {
        "containers": [
            {"name": "omni", "env": [{"name": "HOME"}, {"name": "A", "value": 1}], "imagePullPolicy": "Now"},
            {"name": "side"},
        ],
        "tolerations": [{"operator": "Sort"}],
    }
}
UNREADABLE = "failed to create typed patch object"


def invalid(field: str, message: str) -> ApiError:
    return ApiError(422, "Invalid", "it is invalid", [(f"spec.template.spec.{field}", "FieldValueInvalid", message)])


# The server's error, and the beginning of the problem; None if the error is not about the template.
REJECTIONS: dict[str, tuple[ApiError, str | None]] = {
    "a value of a container that has another index": (
        invalid("containers[0].imagePullPolicy", "no"),
        'at.spec.containers[1].imagePullPolicy: "Now" is refused by the API server: no; correct it',
    ),
    "a missing value": (
        invalid("containers[1].image", "Required value"),
        "at.spec.containers[0].image: is refused by the API server: Required value; ",
    ),
    "an item of a list that is replaced as a whole": (
        invalid("tolerations[0].operator", "no"),
        'at.spec.tolerations[0].operator: "Sort" is refused',
    ),
    "a field that the operator sets": (
        invalid("containers[0].env[0].name", "no"),
        "at.spec.containers[1].env[0].name: is refused by the API server: no",
    ),
    "an item by its name, with a wrong type": (
        ApiError(500, "Unknown", f'{UNREADABLE}: .spec.template.spec.containers[name="omni"].env[name="A"].value:'
                 " expected string, got &value.valueUnstructured{Value:1}"),
        "at.spec.containers[1].env[0].value: 1 is refused by the API server: expected string; correct it",
    ),
    "an unreadable object, without a field": (
        ApiError(500, "Unknown", "failed to convert new object to proper version: quantities must match"),
        "at: makes pods that the API server cannot read: failed to convert",
    ),
    "a busy server": (ApiError(503, "ServiceUnavailable", "try again"), None),
    "a field outside the pod template": (
        ApiError(422, "Invalid", "no", [("spec.selector", "FieldValueInvalid", "field is immutable")]),
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", REJECTIONS)
def test_a_rejection_is_reported_at_the_users_field(row: str) -> None:
    error, expected = REJECTIONS[row]
    found = [str(problem) for problem in template_problems(error, MERGED, TEMPLATE, "at")]
    assert len(found) == (expected is not None)
    assert all(problem.startswith(expected or "") for problem in found)


def test_a_rejection_of_a_typed_field_is_reported_there() -> None:
    error = invalid("affinity.nodeAffinity", "no")
    found = [str(one) for one in template_problems(error, MERGED, TEMPLATE, "spec.head.template", {"affinity"})]
    assert found == ["spec.head.affinity: is refused by the API server: no; correct it, or remove it"]
