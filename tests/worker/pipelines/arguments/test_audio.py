"""The cards and the arguments of pipelines that make sound."""

import warnings

import pytest

from omni_worker.errors import RequestError
from omni_worker.model_card import ServingDefaults
from omni_worker.pipelines.arguments.call_arguments import CallArguments
from omni_worker.requests import GenerationParams

from ..survey import specimens

SPECIMENS = {one.name: one for one in specimens()}
# The argument for the length, the model's own length, and the samples a second.
PIPELINES = {
    "StableAudioPipeline": ("audio_end_in_s", None, 800),
    "StableAudio3Pipeline": ("duration", 10.0, 800),
    "AudioLDMPipeline": ("audio_length_in_s", None, 16_000),
    "AudioLDM2Pipeline": ("audio_length_in_s", None, 16_000),
    "MusicLDMPipeline": ("audio_length_in_s", None, 16_000),
    "AceStepPipeline": ("audio_duration", 60.0, 80),
    "LongCatAudioDiTPipeline": ("audio_duration_s", None, 800),
    "DanceDiffusionPipeline": ("audio_length_in_s", None, 800),
}
SILENT = ("StableDiffusionPipeline", "WanPipeline", "LTX2Pipeline")


def arguments_of(name, **defaults):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = SPECIMENS[name].build()
    return CallArguments(pipe, ServingDefaults(**defaults)), pipe


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_that_makes_sound_is_known_as_one(name):
    argument, seconds, rate = PIPELINES[name]
    arguments, pipe = arguments_of(name)
    card = arguments.card(pipe, "step")
    assert (card.product, card.audio, card.video, card.sized) == ("audio", True, False, False)
    assert (card.seconds, card.sample_rate) == (seconds, rate)
    assert (card.width, card.height) == (None, None)
    assert argument not in {one.name for one in card.arguments}
    assert arguments.build(GenerationParams(prompt="rain", seconds=2.5))[argument] == 2.5
    assert argument not in arguments.build(GenerationParams(prompt="rain"))
    with pytest.raises(RequestError, match=f"{argument} has a field of its own: send it as seconds"):
        arguments.build(GenerationParams(prompt="rain", extra_args={argument: 2.5}))


@pytest.mark.parametrize("name", SILENT)
def test_others_are_not(name):
    arguments, pipe = arguments_of(name)
    card = arguments.card(pipe, "step")
    assert (card.audio, card.seconds, card.sample_rate) == (False, None, None)
    assert card.product == ("image" if name == SILENT[0] else "video")


def test_the_default_length_fills_what_a_request_leaves_out():
    arguments, pipe = arguments_of("AceStepPipeline", seconds=20.0)
    assert arguments.card(pipe, "step").seconds == 20.0
    assert arguments.build(GenerationParams(prompt="rain"))["audio_duration"] == 20.0


def test_a_length_counts_from_the_start():
    arguments, _ = arguments_of("StableAudioPipeline")
    params = GenerationParams(prompt="rain", seconds=2.0, extra_args={"audio_start_in_s": 1.5})
    built = arguments.build(params)
    assert (built["audio_start_in_s"], built["audio_end_in_s"]) == (1.5, 3.5)
