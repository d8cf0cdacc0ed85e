"""The sound of a pipeline: whether it makes any, how long, and at which rate.

diffusers does not declare these in one way. A pipeline makes sound if its call returns an `AudioPipelineOutput`, or if
its blocks make `audios`. The length has several names, and the rate is in the configuration of whichever model makes
the waveform.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from omni_worker.model_card import SECONDS_ARGUMENTS
from omni_worker.pipelines.modular import ModularCall
from omni_worker.requests import GenerationParams

OUTPUT = "AudioPipelineOutput"
WAVEFORM_MODELS = ("vocoder", "vae", "unet")
"""The components that can make the waveform, in the order in which they come last."""
RATES = ("sampling_rate", "sample_rate")
START, END = "audio_start_in_s", "audio_end_in_s"


def makes_sound(pipe: Any) -> bool:
    """Whether a pipeline's call returns sound, and neither images nor videos."""
    if isinstance(pipe, ModularCall):
        return {*pipe.results} == {"audios"}
    code = getattr(inspect.unwrap(type(pipe).__call__), "__code__", None)
    return code is not None and OUTPUT in code.co_names


def sound_fields(pipe: Any, parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """The fields of a ModelCard that describe sound; none if the pipeline makes no sound."""
    if not makes_sound(pipe):
        return {}
    name = seconds_argument(pipe, parameters)
    default = parameters[name].default if name else None
    seconds = float(default) if isinstance(default, int | float) and default > 0 else None
    return {"audio": True, "sample_rate": sample_rate(pipe), "seconds": seconds}


def sample_rate(pipe: Any) -> int | None:
    """The samples a second of a pipeline's sound; None if it does not say."""
    models = [getattr(getattr(pipe, name, None), "config", None) for name in WAVEFORM_MODELS]
    found = (getattr(one, name, None) for one in (*models, pipe) for name in RATES)
    return next((int(rate) for rate in found if isinstance(rate, int | float) and rate > 0), None)


def seconds_argument(pipe: Any, parameters: Mapping[str, inspect.Parameter]) -> str | None:
    """The argument for the length of a pipeline's sound; None if it takes none, or makes no sound."""
    return next((name for name in SECONDS_ARGUMENTS if name in parameters), None) if makes_sound(pipe) else None


def seconds_arguments(argument: str | None, params: GenerationParams) -> dict[str, float]:
    """A request's length of the sound, as that argument. The end of the sound is so long after its start."""
    if argument is None or params.seconds is None:
        return {}
    start = params.extra_args.get(START) if argument == END else None
    return {argument: params.seconds + (start or 0)}
