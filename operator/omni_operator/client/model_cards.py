"""The models that a running pipeline serves, and what each one accepts.

`omni models --output json` prints these records, so their fields are part of the command's output. The head's own card
has more fields. Printing the response as it is would add them to the output, and every later field too.
"""

import json
from typing import Any

import httpx

from omni_operator.client.endpoint import Endpoint
from omni_operator.client.responses import ApiRecord, fetch


class RequestDefaults(ApiRecord):
    """The values that a model uses for what a request leaves out."""

    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    width: int | None = None
    height: int | None = None


class Argument(ApiRecord):
    """An argument of the pipeline's call that a request can give in `extra_args`."""

    name: str
    kinds: tuple[str, ...] = ()
    default: bool | int | float | str | tuple[Any, ...] | None = None
    required: bool = False

    @property
    def description(self) -> str:
        """Its kinds and its default, in words."""
        kinds = " or ".join(self.kinds)
        if self.required:
            return f"{kinds}, required"
        return kinds if self.default is None else f"{kinds}, {json.dumps(self.default)} by default"


class ModelCard(ApiRecord):
    """What a model accepts in a request. The head's API describes the fields."""

    context_length: int | None = None
    defaults: RequestDefaults = RequestDefaults()
    negative_prompt: bool = False
    guidance: bool = False
    sized: bool = False
    size_multiple: int = 1
    image: str = "none"
    needs_image: bool = False
    mask: bool = False
    strength: bool = False
    steps: int | None = None
    video: bool = False
    audio: bool = False
    arguments: tuple[Argument, ...] = ()

    def accepts(self) -> list[str]:
        """What it accepts besides the prompt, in words."""
        accepted = {
            "guidance": self.guidance,
            "negative prompt": self.negative_prompt,
            f"size (multiples of {self.size_multiple})" if self.size_multiple > 1 else "size": self.sized,
            "several images" if self.image == "several" else "an image": self.image != "none",
            "length in seconds": self.audio,
            "mask": self.mask,
            "strength": self.strength,
            f"{self.context_length} tokens": self.context_length is not None,
        }
        return [name for name, is_accepted in accepted.items() if is_accepted]


class ReplicaModel(ApiRecord):
    """The model of one replica, and the mode in which the replica runs it."""

    stage: str
    pipeline: str
    mode: str
    card: ModelCard = ModelCard()


class ReplicasResponse(ApiRecord):
    """GET /omni/replicas."""

    replicas: list[ReplicaModel]


class ServedModel(ApiRecord):
    """One name under which the pipeline serves requests."""

    id: str


class ModelsResponse(ApiRecord):
    """GET /v1/models."""

    data: list[ServedModel]


def fetch_model_names(client: httpx.Client, endpoint: Endpoint) -> list[str]:
    """The names under which the pipeline serves requests. Raises RequestFailed."""
    return [model.id for model in fetch(client, endpoint, "/v1/models", ModelsResponse).data]


def fetch_replica_models(client: httpx.Client, endpoint: Endpoint) -> list[ReplicaModel]:
    """The model of every replica, by stage and id. Raises RequestFailed."""
    return fetch(client, endpoint, "/omni/replicas", ReplicasResponse).replicas
