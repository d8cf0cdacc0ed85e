"""What API servers have said of pods, told at the field of the user's template."""

from typing import Any

import pytest

from omni_operator.controller.dry_run import problems
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


# What the server says, and how the problem begins; nothing where it is about something else.
SAID: dict[str, tuple[ApiError, str | None]] = {
    "a value of a container, which stands at another place": (
        invalid("containers[0].imagePullPolicy", "no"),
        'at.spec.containers[1].imagePullPolicy: "Now" is refused by the API server: no; correct it',
    ),
    "a value that is missing": (
        invalid("containers[1].image", "Required value"),
        "at.spec.containers[0].image: is refused by the API server: Required value; ",
    ),
    "an item of a list that is taken whole": (
        invalid("tolerations[0].operator", "no"),
        'at.spec.tolerations[0].operator: "Sort" is refused',
    ),
    "a field of ours": (
        invalid("containers[0].env[0].name", "no"),
        "at.spec.containers[1].env[0].name: is refused by the API server: no",
    ),
    "an item by its name, of another type": (
        ApiError(500, "Unknown", f'{UNREADABLE}: .spec.template.spec.containers[name="omni"].env[name="A"].value:'
                 " expected string, got &value.valueUnstructured{Value:1}"),
        "at.spec.containers[1].env[0].value: 1 is refused by the API server: expected string; correct it",
    ),
    "what cannot be read, without a place": (
        ApiError(500, "Unknown", "failed to convert new object to proper version: quantities must match"),
        "at: makes pods that the API server cannot read: failed to convert",
    ),
    "no time": (ApiError(503, "ServiceUnavailable", "try again"), None),
    "a field that is not the pods'": (
        ApiError(422, "Invalid", "no", [("spec.selector", "FieldValueInvalid", "field is immutable")]),
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", SAID)
def test_what_the_server_says_is_told_at_the_users_own_field(row: str) -> None:
    error, expected = SAID[row]
    found = [str(problem) for problem in problems(error, MERGED, TEMPLATE, "at")]
    assert len(found) == (expected is not None)
    assert all(problem.startswith(expected or "") for problem in found)
