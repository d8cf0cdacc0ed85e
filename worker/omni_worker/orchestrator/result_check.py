"""Checks that a replica's result fits the request, before anything uses it. Pure.

A result that does not fit is the replica's fault: the head treats it like any other failure there. Sizes and numbers of
frames need not be exactly those requested, because pipelines round them, scale the image up, or draw a megapixel
whatever was requested. So only a result that is far from the request counts as wrong.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from omni_worker.config.records import Stage
from omni_worker.errors import RequestError
from omni_worker.model_card import MAX_SIDE, ModelCard
from omni_worker.requests import Completion, GenerationParams, GenerationResult, Sound

CHANNELS = (1, 3, 4)
FACTOR = 8
"""A side or a number of frames may be this many times what was requested, or this fraction of it."""
USUAL_SIDE, USUAL_FRAMES = 4096, 128
"""What a result may have however little was requested."""
MAX_FRAMES = 100_000
USUAL_SECONDS, MAX_SECONDS, MAX_RATE = 120, 36_000, 10**7
FINISH_REASONS = ("stop", "length")


def check_result(result: GenerationResult, params: GenerationParams, stage: Stage, card: ModelCard) -> None:
    """Check what a replica of `stage` with this card returned for `params`, but not the values of embeddings.

    Raises RequestError of kind `failed`, naming what is wrong and what was expected.
    """
    problem = next(_problems(result, params, stage, card), None)
    if problem is not None:
        raise RequestError("failed", f"the replica returned a wrong result: {problem}")


def check_finite(embeddings: Mapping[str, np.ndarray]) -> None:
    """Check the values of embeddings, which takes a while. Raises RequestError of kind `failed`."""
    for name, array in embeddings.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            message = f"the replica returned a wrong result: embeddings {name!r:.80} are not finite (NaN or infinite)"
            raise RequestError("failed", message)


def is_image(array: np.ndarray) -> bool:
    """Whether an array can be encoded as an image."""
    return _image_problem(array, is_video=False) is None


def _problems(result: GenerationResult, params: GenerationParams, stage: Stage, card: ModelCard) -> Iterator[str]:
    if stage.engine == "diffusion":
        if card.audio:
            yield from _problems_of_sound(result.sound, params, card)
        else:
            yield from _problems_of_images(result.images, params, card)
        return
    if stage.writes:
        yield from _problems_of_text(result.completion, params)
    if params.hidden_states or not stage.writes:
        yield from _problems_of_embeddings(result.embeddings, stage)


def _problems_of_images(images: list[np.ndarray], params: GenerationParams, card: ModelCard) -> Iterator[str]:
    kind = "video" if card.video else "image"
    if not images:
        yield f"no {kind}"
        return
    array = images[0]  # what a pipeline returns beside it is not sent to the client
    if (problem := _image_problem(array, card.video)) is not None:
        yield problem
        return
    asked = card.defaults.fill(params)
    height, width = array.shape[-3:-1]
    for name, length, requested in (("width", width, asked.width), ("height", height, asked.height)):
        least, most = _bounds(requested if card.sized else None, USUAL_SIDE, MAX_SIDE)
        if not least <= length <= most:
            yield f"{kind} of {width}x{height} pixels, expected a {name} from {least} to {most}"
    if card.video:
        least, most = _bounds(asked.frames or card.frames, USUAL_FRAMES, MAX_FRAMES)
        if not least <= len(array) <= most:
            yield f"video of {len(array)} frames, expected {least} to {most}"


def _problems_of_sound(sound: Sound | None, params: GenerationParams, card: ModelCard) -> Iterator[str]:
    if sound is None:
        yield "no sound"
        return
    samples, rate = sound.samples, sound.rate
    if samples.dtype != np.float32:
        yield f"sound of dtype {samples.dtype}, expected float32"
    elif samples.ndim != 2 or samples.shape[0] not in (1, 2) or not samples.shape[1]:
        yield f"sound of shape {samples.shape}, expected (1 or 2 channels, samples)"
    elif not 1 <= rate <= MAX_RATE:
        yield f"sound of {rate} samples a second, expected 1 to {MAX_RATE}"
    else:
        asked = card.defaults.fill(params).seconds or card.seconds
        most = min(MAX_SECONDS, max(asked * FACTOR, USUAL_SECONDS)) if asked else MAX_SECONDS
        if samples.shape[1] > most * rate:
            yield f"sound of {samples.shape[1] / rate:g} s, expected at most {most:g}"


def _image_problem(array: np.ndarray, is_video: bool) -> str | None:
    """What is wrong with an image or video, whatever was requested; None if nothing is."""
    kind, dimensions = ("video", 4) if is_video else ("image", 3)
    if array.dtype != np.uint8:
        return f"{kind} of dtype {array.dtype}, expected uint8"
    if array.ndim != dimensions or 0 in array.shape:
        axes = "frames, height, width, channels" if is_video else "height, width, channels"
        return f"{kind} of shape {array.shape}, expected ({axes})"
    height, width, channels = array.shape[-3:]
    if channels not in CHANNELS:
        return f"{kind} with {channels} channels, expected 1, 3 or 4"
    if max(height, width) > MAX_SIDE:
        return f"{kind} of {width}x{height} pixels, expected sides of at most {MAX_SIDE}"
    return None


def _bounds(requested: int | None, usual: int, limit: int) -> tuple[int, int]:
    if not requested:
        return 1, limit
    return max(1, requested // FACTOR), min(limit, max(requested * FACTOR, usual))


def _problems_of_text(completion: Completion | None, params: GenerationParams) -> Iterator[str]:
    if completion is None:
        yield "no text"
        return
    written, most = completion.written, params.sampling.max_tokens
    if most is not None and len(written.tokens) > most:
        yield f"{len(written.tokens)} tokens, expected at most {most}"
    if completion.finish_reason not in FINISH_REASONS:
        yield f"finish reason {completion.finish_reason!r:.80}, expected {' or '.join(FINISH_REASONS)}"
    if completion.prompt_tokens < 0:
        yield f"{completion.prompt_tokens} prompt tokens"
    if any(np.isnan([one.logprob, *(value for _, value in one.likeliest)]).any() for one in written.logprobs):
        yield "log-probabilities that are not numbers (NaN)"


def _problems_of_embeddings(embeddings: Mapping[str, np.ndarray], stage: Stage) -> Iterator[str]:
    if not embeddings:
        yield "no embeddings"
    if stage.writes and (missing := {"prompt_hidden_states", "output_hidden_states"} - embeddings.keys()):
        yield f"no {' and no '.join(sorted(missing))}"
