"""What pipelines generate, and the routes for each of them."""

from omni_worker.errors import RequestError
from omni_worker.requests import GenerationResult

PRODUCTS = {
    "image": ("images", "/v1/images/generations"),
    "video": ("videos", "/v1/videos"),
    "audio": ("sound", "/v1/audio/speech"),
}
"""By ModelCard.product: a name for people, and the route."""


def check_product(requested: str, made: str, pipeline: str = "this pipeline") -> None:
    """Raises RequestError if the pipeline generates something else than what was requested, naming its route."""
    if requested != made:
        (no, _), (name, path) = PRODUCTS[requested], PRODUCTS[made]
        message = f"{pipeline} makes no {no}: it makes {name}: POST {path} takes the request"
        raise RequestError("invalid", message, "model")


def check_result(requested: str, result: GenerationResult) -> None:
    """The same of a result. The card was not known if no replica was up when the request came. Raises RequestError."""
    made = "audio" if result.sound is not None else "video" if result.images[0].ndim == 4 else "image"
    check_product(requested, made)
