"""Where models are: on the hub, on a PersistentVolumeClaim, in the worker itself, or in a folder."""

from collections.abc import Iterable

from omni_operator.crd.spec.parts import Model

MODELS_DIR = "/models"
PVC = "pvc://"
HUB = "hf://"


def model_location(model: Model) -> str:
    """The model as the worker's argument. A claim is a folder in MODELS_DIR with the claim's name."""
    return f"{MODELS_DIR}/{model.source.removeprefix(PVC)}".rstrip("/") if claim_of(model) else model.source


def is_on_hub(model: Model) -> bool:
    return model.source.startswith(HUB)


def claim_of(model: Model) -> str | None:
    """The PersistentVolumeClaim that holds the model; None if the model is elsewhere."""
    return model.source.removeprefix(PVC).partition("/")[0] if model.source.startswith(PVC) else None


def claims_of(models: Iterable[Model]) -> tuple[str, ...]:
    """The claims of several models, each once."""
    return tuple(dict.fromkeys(claim for model in models if (claim := claim_of(model))))
