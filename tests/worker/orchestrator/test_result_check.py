"""Results that fit a request, and results that do not."""

import numpy as np
import pytest

from omni_worker.config.records import Stage
from omni_worker.errors import RequestError
from omni_worker.model_card import ModelCard, ServingDefaults
from omni_worker.orchestrator.result_check import check_finite, check_result, is_image
from omni_worker.requests import (
    Completion,
    GeneratedText,
    GenerationParams,
    GenerationResult,
    SamplingParams,
    Sound,
    TokenLogprob,
)

PAINTER, WRITER = Stage(0, "painter"), Stage(0, "writer", "autoregressive")
ENCODER = Stage(0, "encoder", "autoregressive", "encode")
IMAGES = ModelCard(pipeline="P", mode="step", sized=True)
FIXED = ModelCard(pipeline="P", mode="step")
WITH_DEFAULT = ModelCard(pipeline="P", mode="step", sized=True, defaults=ServingDefaults(width=512, height=512))
VIDEOS = ModelCard(pipeline="P", mode="step", sized=True, video=True, frames=16)
SOUNDS = ModelCard(pipeline="P", mode="step", audio=True, seconds=3.0, sample_rate=8)
TEXT = ModelCard(pipeline="W", mode="generate")
SIZED = GenerationParams(prompt="p", width=512, height=256)
PLAIN = GenerationParams(prompt="p")
LIMITED = GenerationParams(prompt="p", sampling=SamplingParams(max_tokens=3))
NO_TOKEN = GenerationParams(prompt="p", sampling=SamplingParams(max_tokens=0))
STATES = GenerationParams(prompt="p", hidden_states=True)


def drawn(*shape, dtype=np.uint8):
    return GenerationResult(images=[np.broadcast_to(np.zeros((), dtype), shape)])


def played(*shape, dtype=np.float32, rate=8):
    return GenerationResult(sound=Sound(samples=np.broadcast_to(np.zeros((), dtype), shape), rate=rate))


def written(tokens=3, finish_reason="stop", prompt_tokens=7, logprobs=(), **embeddings):
    text = GeneratedText(text="x", tokens=[1] * tokens, logprobs=list(logprobs))
    completion = Completion(written=text, finish_reason=finish_reason, prompt_tokens=prompt_tokens)
    return GenerationResult(completion=completion, embeddings=embeddings)


@pytest.mark.parametrize(("result", "params", "stage", "card"), [
    pytest.param(drawn(256, 512, 3), SIZED, PAINTER, IMAGES, id="the size requested"),
    pytest.param(drawn(240, 496, 4), SIZED, PAINTER, IMAGES, id="rounded down, with transparency"),
    pytest.param(drawn(1024, 2048, 1), SIZED, PAINTER, IMAGES, id="four times as large, grey"),
    pytest.param(drawn(1024, 1024, 3), GenerationParams(prompt="p", width=32, height=32), PAINTER, IMAGES,
                 id="a pipeline that draws a megapixel whatever is requested"),
    pytest.param(drawn(32, 32, 3), SIZED, PAINTER, FIXED, id="a model with a size of its own"),
    pytest.param(drawn(64, 64, 3), PLAIN, PAINTER, IMAGES, id="no size requested"),
    pytest.param(drawn(17, 256, 512, 3), SIZED, PAINTER, VIDEOS, id="a video with a frame more than usual"),
    pytest.param(played(2, 24), PLAIN, PAINTER, SOUNDS, id="a sound"),
    pytest.param(played(1, 120 * 8), PLAIN, PAINTER, SOUNDS, id="a sound that is longer than requested"),
    pytest.param(written(), LIMITED, WRITER, TEXT, id="a text"),
    pytest.param(written(0, "length"), NO_TOKEN, WRITER, TEXT, id="no token was requested"),
    pytest.param(written(logprobs=[TokenLogprob("a", float("-inf"))]), PLAIN, WRITER, TEXT, id="an impossible token"),
    pytest.param(written(prompt_hidden_states=np.ones((2, 4)), output_hidden_states=np.ones((0, 4))), STATES, WRITER,
                 TEXT, id="hidden states"),
    pytest.param(GenerationResult(embeddings={"any": np.ones(3)}), STATES, ENCODER, TEXT, id="embeddings"),
    pytest.param(GenerationResult(images=drawn(8, 8, 3).images * 2), PLAIN, PAINTER, IMAGES, id="more than one image"),
])  # fmt: skip
def test_results_that_fit(result, params, stage, card):
    check_result(result, params, stage, card)


@pytest.mark.parametrize(("result", "params", "stage", "card", "problem"), [
    (GenerationResult(), PLAIN, PAINTER, IMAGES, "no image"),
    (drawn(8, 8, 3, dtype=np.float32), PLAIN, PAINTER, IMAGES, "image of dtype float32, expected uint8"),
    (drawn(8, 8, 3, dtype=np.int8), PLAIN, PAINTER, IMAGES, "image of dtype int8"),
    (drawn(8, 8), PLAIN, PAINTER, IMAGES, "image of shape (8, 8), expected (height, width, channels)"),
    (drawn(), PLAIN, PAINTER, IMAGES, "image of shape ()"),
    (drawn(0, 8, 3), PLAIN, PAINTER, IMAGES, "image of shape (0, 8, 3)"),
    (drawn(3, 8, 8), PLAIN, PAINTER, IMAGES, "image with 8 channels, expected 1, 3 or 4"),
    (drawn(8, 8, 2), PLAIN, PAINTER, IMAGES, "image with 2 channels"),
    (drawn(5, 8, 8, 3), PLAIN, PAINTER, IMAGES, "image of shape (5, 8, 8, 3), expected (height, width, channels)"),
    (drawn(1, 2**29, 3), PLAIN, PAINTER, FIXED, "image of 536870912x1 pixels, expected sides of at most 16384"),
    (drawn(2, 2, 3), SIZED, PAINTER, IMAGES, "image of 2x2 pixels, expected a width from 64 to 4096"),
    (drawn(256, 8192, 3), SIZED, PAINTER, IMAGES, "image of 8192x256 pixels, expected a width from 64 to 4096"),
    (drawn(8, 512, 3), SIZED, PAINTER, IMAGES, "image of 512x8 pixels, expected a height from 32 to 4096"),
    (drawn(2, 2, 3), PLAIN, PAINTER, WITH_DEFAULT, "image of 2x2 pixels, expected a width from 64"),
    (drawn(8, 8, 3), PLAIN, PAINTER, VIDEOS, "video of shape (8, 8, 3), expected (frames, height, width, channels)"),
    (drawn(1, 1, 357913941, 3), PLAIN, PAINTER, VIDEOS, "video of 357913941x1 pixels"),
    (drawn(1, 64, 64, 3), PLAIN, PAINTER, VIDEOS, "video of 1 frames, expected 2 to 128"),
    (drawn(999, 64, 64, 3), PLAIN, PAINTER, VIDEOS, "video of 999 frames, expected 2 to 128"),
    (drawn(8, 8, 3), PLAIN, PAINTER, SOUNDS, "no sound"),
    (played(2, 8), PLAIN, PAINTER, IMAGES, "no image"),
    (played(2, 8, dtype=np.float64), PLAIN, PAINTER, SOUNDS, "sound of dtype float64, expected float32"),
    (played(8), PLAIN, PAINTER, SOUNDS, "sound of shape (8,), expected (1 or 2 channels, samples)"),
    (played(3, 8), PLAIN, PAINTER, SOUNDS, "sound of shape (3, 8)"),
    (played(2, 0), PLAIN, PAINTER, SOUNDS, "sound of shape (2, 0)"),
    (played(2, 8, rate=0), PLAIN, PAINTER, SOUNDS, "sound of 0 samples a second"),
    (played(1, 121 * 8), PLAIN, PAINTER, SOUNDS, "sound of 121 s, expected at most 120"),
    (GenerationResult(), PLAIN, WRITER, TEXT, "no text"),
    (written(4), LIMITED, WRITER, TEXT, "4 tokens, expected at most 3"),
    (written(finish_reason="tired"), PLAIN, WRITER, TEXT, "finish reason 'tired', expected stop or length"),
    (written(prompt_tokens=-1), PLAIN, WRITER, TEXT, "-1 prompt tokens"),
    (written(logprobs=[TokenLogprob("a", float("nan"))]), PLAIN, WRITER, TEXT, "log-probabilities"),
    (written(logprobs=[TokenLogprob("a", 0.0, (("b", float("nan")),))]), PLAIN, WRITER, TEXT, "log-probabilities"),
    (written(), STATES, WRITER, TEXT, "no embeddings"),
    (written(output_hidden_states=np.ones((3, 4))), STATES, WRITER, TEXT, "no prompt_hidden_states"),
    (GenerationResult(), STATES, ENCODER, TEXT, "no embeddings"),
])  # fmt: skip
def test_results_that_do_not_fit(result, params, stage, card, problem):
    with pytest.raises(RequestError) as failure:
        check_result(result, params, stage, card)
    assert failure.value.kind == "failed"
    assert failure.value.message.startswith(f"the replica returned a wrong result: {problem}")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_embeddings_must_be_finite(value):
    good = {"a": np.ones((3, 4), np.float32), "mask": np.ones(3, np.int64)}
    check_finite(good)
    with pytest.raises(RequestError, match="embeddings 'b' are not finite"):
        check_finite({**good, "b": np.array([1.0, value])})


def test_what_can_be_a_preview():
    assert is_image(np.zeros((8, 8, 3), np.uint8))
    assert not is_image(np.zeros((8, 8, 3)))
    assert not is_image(np.zeros((8, 8), np.uint8))
