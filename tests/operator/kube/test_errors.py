"""Errors of the API server: how they are read from answers, and which of them a retry can help."""

import json

import pytest

from omni_operator.kube.connection import MAX_DELAY_SECONDS, retry_delay
from omni_operator.kube.errors import ApiError, Unreachable, error_from_response, error_from_status

STATUS = {
    "kind": "Status",
    "code": 422,
    "reason": "Invalid",
    "message": "it is invalid",
    "details": {"causes": [{"field": "spec.a", "reason": "FieldValueInvalid", "message": "no"}, {}]},
}


def test_a_status_object_becomes_an_error_with_its_causes() -> None:
    error = error_from_status(STATUS)
    assert (error.status, error.reason, str(error)) == (422, "Invalid", "it is invalid")
    assert error.causes == (("spec.a", "FieldValueInvalid", "no"), ("", "", ""))


def test_an_answer_carries_its_retry_after() -> None:
    error = error_from_response(429, "Too Many Requests", json.dumps({**STATUS, "code": 429}).encode(), "7")
    assert (error.status, error.retry_after) == (429, 7.0)


@pytest.mark.parametrize("content", [b"<html>bad gateway</html>", b"[]"])
def test_an_answer_without_a_status_object_is_its_own_message(content: bytes) -> None:
    error = error_from_response(502, "Bad Gateway", content, "soon")
    assert (error.status, error.reason, str(error), error.retry_after) == (502, "Bad Gateway", content.decode(), 0.0)


# name: (the error, whether a retry can help)
RETRIES: dict[str, tuple[ApiError | Unreachable, bool]] = {
    "a broken connection": (Unreachable("connection refused"), True),
    "a timeout": (Unreachable("timed out", is_timeout=True), False),
    "a busy server": (ApiError(429, "TooManyRequests", "later"), True),
    "a failing server": (ApiError(503, "ServiceUnavailable", "later"), True),
    "a server that asks for a long wait": (ApiError(503, "", "later", (), MAX_DELAY_SECONDS + 1), False),
    "a rejected request": (ApiError(422, "Invalid", "no"), False),
    "an object that the server cannot read": (ApiError(500, "", "failed to create typed patch object"), False),
}


@pytest.mark.parametrize("row", RETRIES)
def test_only_errors_that_can_go_away_are_retried(row: str) -> None:
    error, is_retried = RETRIES[row]
    assert (retry_delay(error, 1) is not None) is is_retried


def test_a_retry_waits_longer_each_time_and_at_least_as_long_as_the_server_asks() -> None:
    error = Unreachable("connection refused")
    assert (retry_delay(error, 3) or 0.0) > 2 * (retry_delay(error, 1) or 0.0)
    assert retry_delay(ApiError(429, "", "later", (), 3.0), 1) == 3.0


def test_a_race_is_not_a_conflict_with_another_field_manager() -> None:
    assert ApiError(409, "Conflict", "the object has been modified").is_race
    assert not ApiError(409, "Conflict", "", [("spec", "FieldManagerConflict", "kubectl")]).is_race
