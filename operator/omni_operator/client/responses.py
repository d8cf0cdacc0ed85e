"""Reads responses of a head's API as records."""

from typing import TypeVar

import httpx
from pydantic import BaseModel, ConfigDict

from omni_operator.client.endpoint import Endpoint
from omni_operator.client.errors import NotAPipeline, connection_errors, require_success
from omni_operator.client.plain_text import plain_json

RESPONSE_SECONDS = 10.0


class ApiRecord(BaseModel):
    """A part of a response. Fields that newer heads add are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


Record = TypeVar("Record", bound=ApiRecord)


def fetch(client: httpx.Client, endpoint: Endpoint, path: str, record: type[Record]) -> Record:
    """GET a path of the API and read the response as a record, whose texts are plain.

    Raises RequestFailed if the request fails, and NotAPipeline if the response does not fit the record.
    """
    with connection_errors(endpoint):
        response = client.get(path, timeout=RESPONSE_SECONDS)
    if response.status_code == 404:
        raise NotAPipeline(endpoint)
    require_success(endpoint, response)
    try:
        return record.model_validate(plain_json(response.json()))
    except (ValueError, RecursionError):
        raise NotAPipeline(endpoint) from None
