"""audio.speech, as the official client calls it: its files hold the sound of diffusers."""

import asyncio
import base64
import json

import httpx
import numpy as np
import openai
import pytest

from tests.worker.api.heads import head
from tests.worker.api.odd_values import check_json, client_at
from tests.worker.pipelines.zoo.text import prompt
from tests.worker.serving import client_of, eventually

from .sounds import RATE, as_16_bits, decoded, diffusers_sound, likeness, pcm, save_sound

pytestmark = [pytest.mark.processes, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
SEED, STEPS, SECONDS = 7, 4, 0.5
RATES = {"mp3": 16_000, "opus": 48_000, "aac": 16_000, "flac": 16_000, "wav": 16_000}
"""Of the sound with a rate of 16 kHz, by format: Opus always decodes to 48 kHz."""
TYPES = {"mp3": "audio/mpeg", "opus": "audio/ogg", "aac": "audio/aac", "flac": "audio/flac", "wav": "audio/wav"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny Stable Audio: two channels, up to half a second."""
    return save_sound("StableAudioPipeline", tmp_path_factory.mktemp("model"), num_inference_steps=STEPS, seconds=0.25)


@pytest.fixture(scope="module")
def port(model):
    with head(model, "--max-audio-seconds", "2") as process:
        yield process.port


@pytest.fixture(scope="module")
def expected(model):
    return diffusers_sound(model, prompt(1), SEED, num_inference_steps=STEPS, audio_end_in_s=SECONDS)


def speak(port, format="wav", text=None, **extra):
    """The answer of the official client."""
    extra = {"seed": SEED, **extra}
    return client_of(port).audio.speech.create(
        model="tiny", voice="alloy", input=text or prompt(1), response_format=format, extra_body=extra
    )


@pytest.mark.parametrize(
    ("fields", "arguments"),
    [
        ({"seconds": 0.1}, {"audio_end_in_s": 0.1}),
        ({"seconds": 0.12, "guidance_scale": 2.0, "negative_prompt": "a"},
         {"audio_end_in_s": 0.12, "guidance_scale": 2.0, "negative_prompt": "a"}),
        ({"seconds": 0.08, "extra_args": {"audio_start_in_s": 0.02}},
         {"audio_start_in_s": 0.02, "audio_end_in_s": 0.1}),
        ({}, {"audio_end_in_s": 0.25}),
    ],
    ids=["a length", "guidance and a negative prompt", "an extra argument", "the default length"],
)  # fmt: skip
def test_a_wav_file_has_the_samples_of_diffusers(model, port, fields, arguments):
    wanted = diffusers_sound(model, prompt(1), SEED, num_inference_steps=STEPS, **arguments)
    answer = speak(port, num_inference_steps=STEPS, **fields)
    samples, rate = decoded(answer.read())
    assert rate == RATE
    assert samples.shape == wanted.shape
    assert len(samples) == 2
    assert wanted.std() > 0.01, "there is something to hear"
    np.testing.assert_allclose(as_16_bits(samples), as_16_bits(wanted), atol=1)


def test_requests_that_share_batches_give_the_sound_of_each_alone(model, port):
    async def send(i):
        body = {"input": prompt(i), "seed": i, "seconds": 0.1, "num_inference_steps": 3, "response_format": "pcm"}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=600) as client:
            return await client.post("/v1/audio/speech", json=body)

    async def send_all():
        return await asyncio.gather(*map(send, range(3)))

    for i, answer in enumerate(asyncio.run(send_all())):
        wanted = diffusers_sound(model, prompt(i), i, num_inference_steps=3, audio_end_in_s=0.1)
        np.testing.assert_allclose(pcm(answer.content, 2), as_16_bits(wanted), atol=4)


@pytest.mark.parametrize("format", RATES)
def test_every_format_holds_the_sound(port, expected, format):
    answer = speak(port, format, seconds=SECONDS)
    assert answer.response.headers["Content-Type"] == TYPES[format]
    samples, rate = decoded(answer.read(), RATE)
    assert rate == RATES[format]
    assert len(samples) == 2
    if format in ("wav", "flac"):
        np.testing.assert_allclose(as_16_bits(samples), as_16_bits(expected), atol=1)
    for one, wanted in zip(samples, expected, strict=True):
        assert likeness(one, wanted) > 0.9, "the sound of another seed has 0.05"


def test_pcm_has_no_header_and_the_response_tells_how_to_read_it(port, expected):
    answer = speak(port, "pcm", seconds=SECONDS)
    headers = answer.response.headers
    assert (headers["X-Sample-Rate"], headers["X-Channels"], headers["X-Seed"]) == ("16000", "2", str(SEED))
    assert headers["X-Request-Id"].startswith("req-")
    np.testing.assert_allclose(pcm(answer.read(), 2), as_16_bits(expected), atol=1)


def test_a_random_seed_is_told_and_makes_the_sound_again(port):
    first = speak(port, seed=None, seconds=0.1)
    again = speak(port, seed=int(first.response.headers["X-Seed"]), seconds=0.1)
    assert first.read() == again.read()


def test_the_file_can_be_streamed(port, expected):
    with client_of(port).audio.speech.with_streaming_response.create(
        model="tiny", voice="alloy", input=prompt(1), response_format="pcm",
        extra_body={"seed": SEED, "seconds": SECONDS},
    ) as answer:  # fmt: skip
        assert answer.headers["Transfer-Encoding"] == "chunked"
        data = b"".join(answer.iter_bytes())
    np.testing.assert_allclose(pcm(data, 2), as_16_bits(expected), atol=1)


def test_the_default_format_is_mp3(port):
    answer = client_of(port).audio.speech.create(
        model="tiny", voice="alloy", input=prompt(1), extra_body={"seconds": 0.1}
    )
    assert answer.response.headers["Content-Type"] == "audio/mpeg"
    assert decoded(answer.read())[1] == 16_000


def test_events_carry_the_file_and_end_with_the_seed(port):
    whole = speak(port, "flac", seconds=SECONDS).read()
    with client_of(port).audio.speech.with_streaming_response.create(
        model="tiny", voice="alloy", input=prompt(1), response_format="flac", stream_format="sse",
        extra_body={"seed": SEED, "seconds": SECONDS},
    ) as answer:  # fmt: skip
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        events = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]
    *deltas, done = events
    assert {delta["type"] for delta in deltas} == {"speech.audio.delta"}
    assert b"".join(base64.b64decode(delta["audio"]) for delta in deltas) == whole
    assert done == {
        "type": "speech.audio.done",
        "usage": {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0},
        "seed": SEED,
        "sample_rate": 16_000,
        "channels": 2,
    }


def test_what_the_pipeline_rejects_is_an_error_before_any_event(port):
    for extra in ({}, {"stream_format": "sse"}):
        with pytest.raises(openai.BadRequestError, match="longer than the model maximum possible length"):
            speak(port, seconds=1.5, **extra)


def test_a_client_that_goes_away_has_its_request_aborted(port):
    body = {"input": prompt(1), "seconds": 0.5, "num_inference_steps": 1000}
    for extra in ({}, {"stream_format": "sse"}):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"http://127.0.0.1:{port}/v1/audio/speech", json=body | extra, timeout=0.5)
        eventually(lambda: not running(port), "the request is aborted", 30)


def running(port):
    return httpx.get(f"http://127.0.0.1:{port}/omni/requests").json()["requests"]


def test_a_pipeline_that_makes_images_names_its_route(port):
    with (
        head() as digits,
        pytest.raises(openai.BadRequestError, match="makes no sound: it makes images: POST /v1/images/generations"),
    ):
        speak(digits.port)
    client = client_of(port)
    with pytest.raises(openai.BadRequestError, match="makes no images: it makes sound: POST /v1/audio/speech"):
        client.images.generate(prompt="a red three")
    with pytest.raises(openai.BadRequestError, match="makes no videos: it makes sound: POST /v1/audio/speech"):
        client.videos.create(prompt="a red three")


def test_odd_values_are_no_server_errors(port):
    with client_at(port) as client:
        check_json(client, "/v1/audio/speech", {"input": "a red three", "seconds": 0.05, "num_inference_steps": 1})
