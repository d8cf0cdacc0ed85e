"""Where models are: on the hub, in an OCI image, on a PersistentVolumeClaim, in the worker itself, or in a folder."""

from collections.abc import Iterable
from dataclasses import dataclass

from omni_operator.crd.spec.parts import Model
from omni_operator.crd.spec.stage import Lora

MODELS_DIR = "/models"
LORAS_DIR = "/loras"
"""Below it, pods mount the images of LoRA adapters, by the adapters' names."""
PVC = "pvc://"
HUB = "hf://"
IMAGE = "oci://"
IMAGE_DIR = "/model"
"""Where pods mount the image with the model that they load. The worker looks for `oci://` models there."""


@dataclass(frozen=True)
class ModelImage:
    """An OCI image with a model, and how nodes pull it. No policy: the cluster's default."""

    reference: str
    pull_policy: str | None = None
    pull_secrets: tuple[str, ...] = ()


def model_location(model: Model | Lora) -> str:
    """The model as the worker's argument. A claim is a folder in MODELS_DIR with the claim's name."""
    return f"{MODELS_DIR}/{model.source.removeprefix(PVC)}".rstrip("/") if claim_of(model) else model.source


def lora_location(lora: Lora) -> str:
    """Where a replica finds a LoRA adapter."""
    return f"{LORAS_DIR}/{lora.name}" if lora.source.startswith(IMAGE) else model_location(lora)


def images_of_loras(loras: Iterable[Lora]) -> tuple[tuple[str, ModelImage], ...]:
    """The images of LoRA adapters, with the folders in which pods mount them."""
    return tuple(
        (lora_location(lora), ModelImage(lora.source.removeprefix(IMAGE)))
        for lora in loras
        if lora.source.startswith(IMAGE)
    )


def image_of(model: Model) -> ModelImage | None:
    """The image that holds the model; None if the model is elsewhere."""
    if not model.source.startswith(IMAGE):
        return None
    return ModelImage(model.source.removeprefix(IMAGE), model.pull_policy, model.pull_secrets)


def is_on_hub(model: Model) -> bool:
    return model.source.startswith(HUB)


def claim_of(model: Model | Lora) -> str | None:
    """The PersistentVolumeClaim that holds the model; None if the model is elsewhere."""
    return model.source.removeprefix(PVC).partition("/")[0] if model.source.startswith(PVC) else None


def claims_of(models: Iterable[Model | Lora]) -> tuple[str, ...]:
    """The claims of several models, each once."""
    return tuple(dict.fromkeys(claim for model in models if (claim := claim_of(model))))
