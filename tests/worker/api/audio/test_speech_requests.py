"""Requests for sound that are rejected, and what a replica is asked for."""

import numpy as np
import pytest

from omni_worker.config.api import Limits
from omni_worker.model_card import CallArgument, ModelCard, ServingDefaults
from omni_worker.requests import GenerationResult, Sound
from tests.worker.api.in_process import PAINTER, WRITER, Head, client_of

SINGER = ModelCard(
    pipeline="Singer", mode="step", guidance=True, audio=True, sample_rate=8000, seconds=3.0,
    arguments=(CallArgument(name="lyrics", kinds=("text",)), CallArgument(name="cover_duration", kinds=("number",))),
)  # fmt: skip
LONG = ModelCard(pipeline="Singer", mode="step", audio=True, defaults=ServingDefaults(seconds=60.0))
PATH = "/v1/audio/speech"
KEY = "sk-1234567890abcdef1234567890abcdef"


class SingingHead(Head):
    """A head whose replica answers with a second of silence."""

    def __init__(self, card=SINGER, limits=None, key_file=None):
        super().__init__([card], limits, key_file)
        replica = self.replicas[0]

        async def sing(id, params, on_update, is_refusable=True, trace=None):
            replica.received.append(params)
            return GenerationResult(sound=Sound(samples=np.zeros((2, 8000), np.float32), rate=8000), steps=4)

        replica.generate = sing


@pytest.fixture(scope="module")
def singer():
    head = SingingHead(limits=Limits(audio_seconds=30, prompt=100))
    with client_of(head) as client:
        yield head, client


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("input", None, "missing parameter"),
        ("input", "", "at least 1 character"),
        ("input", "x" * 101, "input: 101 characters are more than the 100 allowed here"),
        ("voice", "nova", "have no voices: describe the sound in input"),
        ("voice", {"id": "voice_1"}, "have no voices"),
        ("speed", 1.5, "seconds sets the length"),
        ("instructions", "whisper", "there are no instructions beside input"),
        ("response_format", "ogg", "'mp3', 'opus', 'aac', 'flac', 'wav' or 'pcm'"),
        ("stream_format", "chunks", "'audio' or 'sse'"),
        ("seconds", 31, "seconds: 31.0 are more than the 30 allowed here"),
        ("seconds", 0, "greater than or equal to 0.01"),
        ("seconds", "2", "valid number"),
        ("size", "512x512", "sound has no size"),
        ("negative_prompt", "noise", "Singer takes no negative prompt"),
        ("extra_args", {"cover_duration": 31}, "more than the 30 allowed here"),
        ("extra_args", {"audio_duration": 5}, "send it as seconds"),
        ("model", "other", "there is no model 'other'"),
        ("prompt", "a song", "unknown parameter"),
    ],
)
def test_a_wrong_field_is_named_with_its_remedy(singer, field, value, says):
    head, client = singer
    count = len(head.received)
    response = client.post(PATH, json={"input": "rain", field: value})
    assert response.status_code in (400, 404), response.text
    error = response.json()["error"]
    assert error["param"] == field
    assert says in error["message"]
    assert len(head.received) == count


def test_fields_reach_the_replica(singer):
    head, client = singer
    body = {
        "input": "rain", "model": "tiny", "voice": "alloy", "speed": 1, "instructions": "", "response_format": "wav",
        "seconds": 2.5, "steps": 9, "seed": 3, "guidance": 2.0, "priority": 5, "deadline": 60, "tenant": "radio",
        "extra_args": {"lyrics": "la"}, "exact": True,
    }  # fmt: skip
    response = client.post(PATH, json=body)
    assert response.status_code == 200, response.text
    params = head.received[-1]
    assert (params.prompt, params.seconds, params.steps, params.seed, params.guidance) == ("rain", 2.5, 9, 3, 2.0)
    assert (params.priority, params.tenant, params.extra_args, params.exact) == (5, "radio", {"lyrics": "la"}, True)
    assert 0 < params.deadline_seconds <= 60


def test_the_models_own_length_counts_as_one_that_was_requested():
    with client_of(SingingHead(LONG, Limits(audio_seconds=59))) as client:
        error = client.post(PATH, json={"input": "rain"}).json()["error"]
        assert error["message"] == "seconds: 60.0 are more than the 59 allowed here"
        assert client.post(PATH, json={"input": "rain", "seconds": 5}).status_code == 200


@pytest.mark.parametrize(
    ("card", "says"),
    [
        (PAINTER, "Painter makes no sound: it makes images: POST /v1/images/generations takes the request"),
        (WRITER, "this pipeline gives text, not sound: POST /v1/chat/completions"),
    ],
)
def test_another_kind_of_pipeline_names_its_route(card, says):
    with client_of(Head([card])) as client:
        error = client.post(PATH, json={"input": "rain"}).json()["error"]
    assert (error["param"], error["message"]) == ("model", says)


def test_other_routes_name_the_route_for_sound(singer):
    _, client = singer
    for path, body in {
        "/v1/images/generations": {"prompt": "rain"},
        "/v1/videos": {"prompt": "rain"},
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "rain"}], "modalities": ["image"]},
    }.items():
        error = client.post(path, json=body).json()["error"]
        assert "it makes sound: POST /v1/audio/speech takes the request" in error["message"], path
    for path in ("/v1/audio/transcriptions", "/v1/audio/translations"):
        response = client.post(path)
        assert (response.status_code, response.json()["error"]["code"]) == (400, "unsupported")


def test_a_key_is_needed_where_there_are_keys(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"{KEY} tenant=radio\n")
    head = SingingHead(key_file=str(keys))
    with client_of(head) as client:
        assert client.post(PATH, json={"input": "rain"}).status_code == 401
        response = client.post(PATH, json={"input": "rain"}, headers={"Authorization": f"Bearer {KEY}"})
    assert response.status_code == 200
    assert head.received[-1].tenant == "radio"


def test_the_page_describes_the_files_and_the_events(singer):
    _, client = singer
    page = client.get("/openapi.json").json()
    response = page["paths"][PATH]["post"]["responses"]["200"]
    assert {"audio/mpeg", "audio/wav", "audio/pcm", "text/event-stream"} <= set(response["content"])
    assert {"X-Seed", "X-Sample-Rate", "X-Channels", "X-Request-Id"} == set(response["headers"])
    assert "application/json" not in response["content"]
