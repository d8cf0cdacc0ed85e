"""How requests say which model calls may be left out, over every route that makes images or videos."""

import pytest

from omni_worker.model_card import ModelCard
from omni_worker.requests import NO_CACHE, CacheSettings
from tests.worker.api.in_process import Head, client_of
from tests.worker.api.sample_images import image_file, solid_image

MAG = CacheSettings(mode="mag", threshold=0.06, max_consecutive=2, ratios=(1.0, 0.9))
PAINTER = ModelCard(pipeline="TinyPipeline", mode="step", sized=True, image="one")


def test_every_route_takes_a_cache():
    head, cache = Head([PAINTER]), {"tolerance": 0.05, "max_consecutive": 2}
    conversation = {"messages": [{"role": "user", "content": "a tree"}], "modalities": ["image"]}
    with client_of(head) as client:
        answers = [
            client.post("/v1/images/generations", json={"prompt": "a tree", "cache": cache}),
            client.post("/v1/chat/completions", json={**conversation, "cache": cache}),
            client.post(
                "/v1/images/edits",
                data={"prompt": "a tree", "cache": '{"tolerance": 0.05, "max_consecutive": 2}'},
                files={"image": image_file(solid_image())},
            ),
        ]
    assert [answer.status_code for answer in answers] == [200] * 3, [answer.text for answer in answers]
    assert [one.cache for one in head.received] == [CacheSettings(tolerance=0.05, max_consecutive=2)] * 3


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, None),
        ({"cache": None}, None),
        ({"cache": {"mode": "none"}}, NO_CACHE),
        ({"cache": {"mode": "mag", "max_consecutive": 2, "ratios": [1, 0.9]}}, MAG),
    ],
)
def test_without_one_the_stages_own_setting_counts(body, expected):
    head = Head([PAINTER])
    with client_of(head) as client:
        assert client.post("/v1/images/generations", json={"prompt": "a tree", **body}).status_code == 200
    assert [one.cache for one in head.received] == [expected]


@pytest.mark.parametrize(
    ("cache", "param"),
    [
        ({"mode": "fast"}, "cache.mode"),
        ({"tolerance": 0}, "cache.tolerance"),
        ({"tolerance": 1.5}, "cache.tolerance"),
        ({"max_consecutive": 0}, "cache.max_consecutive"),
        ({"much": 1}, "cache.much"),
        ({"mode": "first-block", "threshold": 0}, "cache.threshold"),
        ({"mode": "first-block", "tolerance": 0.1}, "cache"),
        ("skip", "cache"),
        ([], "cache"),
    ],
)
def test_a_wrong_one_is_refused_by_name(cache, param):
    with client_of(Head([PAINTER])) as client:
        answer = client.post("/v1/images/generations", json={"prompt": "a tree", "cache": cache})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


def test_a_model_that_runs_whole_requests_refuses_it():
    whole = ModelCard(pipeline="TinyPipeline", mode="request")
    with client_of(Head([whole])) as client:
        answers = [
            client.post("/v1/images/generations", json={"prompt": "a tree", "cache": {"mode": mode}})
            for mode in ("skip", "none")
        ]
    assert [answer.status_code for answer in answers] == [400, 200]
    assert answers[0].json()["error"]["param"] == "cache"
