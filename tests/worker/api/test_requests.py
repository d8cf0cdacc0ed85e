"""Requests for images over HTTP, from the official client to two replicas: real processes."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import openai
import pytest

from omni_worker.models.digits_reader import read
from tests.worker import serving
from tests.worker.serving import client_of, eventually, pipeline_with_two_replicas, recover

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def pipeline():
    with pipeline_with_two_replicas() as pipeline:
        yield pipeline


@pytest.fixture(autouse=True)
def recovered(pipeline):
    """Each test starts with two idle replicas."""
    recover(pipeline)


def draw(pipeline, *args, **kwargs):
    return serving.draw(pipeline.head.port, *args, **kwargs)


def pixels(image):
    return np.asarray(image).astype(int)


def test_a_picture_shows_what_was_asked_for(pipeline):
    (image,) = draw(pipeline, "a red three on black background", seed=1)
    reading = read(image)
    assert (reading.digit, reading.colour, reading.background) == (3, "red", "black")


def test_the_same_seed_draws_the_same_picture_and_each_of_n_has_its_own(pipeline):
    one = pixels(draw(pipeline, seed=7)[0])
    assert np.abs(one - pixels(draw(pipeline, seed=7)[0])).max() <= 2
    first, second = draw(pipeline, seed=7, n=2)
    assert np.abs(one - pixels(first)).max() <= 2
    assert np.abs(pixels(second) - pixels(draw(pipeline, seed=8)[0])).max() <= 2
    assert np.abs(one - pixels(second)).max() > 10


def test_size_steps_guidance_and_negative_prompt_reach_the_model(pipeline):
    base = pixels(draw(pipeline, seed=3)[0])
    assert draw(pipeline, seed=3, size="64x64")[0].size == (64, 64)
    for change in ({"num_inference_steps": 9}, {"guidance_scale": 1.0}, {"negative_prompt": "a blue seven"}):
        assert np.abs(base - pixels(draw(pipeline, seed=3, **change)[0])).max() > 2, change


def test_many_at_once_use_both_replicas_and_are_not_mixed_up(pipeline):
    before = {replica["id"]: replica["completed"] for replica in pipeline.replicas()}
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven")
    with ThreadPoolExecutor(8) as pool:
        together = list(
            pool.map(lambda i: draw(pipeline, f"a green {words[i]} on grey background", seed=i)[0], range(8))
        )
    for i, image in enumerate(together):
        alone = draw(pipeline, f"a green {words[i]} on grey background", seed=i)[0]
        assert np.abs(pixels(image) - pixels(alone)).max() <= 2
    served = {
        replica["id"]: replica["completed"] - before[replica["id"]]
        for replica in eventually(
            lambda: (
                sum(one["completed"] for one in pipeline.replicas()) >= sum(before.values()) + 16
                and pipeline.replicas()
            ),
            "the replicas' own counts",
        )
    }
    assert all(count >= 4 for count in served.values()), served


def test_a_request_may_say_how_urgent_it_is(pipeline):
    assert draw(pipeline, seed=1, priority=5, deadline=30, tenant="a-team")


def test_the_models_route_names_the_served_model(pipeline):
    assert [model.id for model in client_of(pipeline.head.port).models.list()] == ["digits"]
    assert client_of(pipeline.head.port).models.retrieve("digits").id == "digits"
    with pytest.raises(openai.NotFoundError, match="no model 'other'"):
        client_of(pipeline.head.port).models.retrieve("other")


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        pytest.param({}, "prompt", "missing parameter", id="no prompt"),
        pytest.param({"prompt": ""}, "prompt", "at least 1", id="an empty prompt"),
        pytest.param({"prompt": "x", "n": 0}, "n", "greater than or equal to 1", id="no pictures"),
        pytest.param({"prompt": "x", "n": 11}, "n", "more than the 10 allowed", id="too many pictures"),
        pytest.param({"prompt": "x", "size": "big"}, "size", "WIDTHxHEIGHT", id="a size in words"),
        pytest.param({"prompt": "x", "size": "99999x32"}, "size", "16384", id="a size out of bounds"),
        pytest.param({"prompt": "x", "size": "33x32"}, "size", "width must be a multiple of 8", id="an odd size"),
        pytest.param({"prompt": "x", "stepz": 4}, "stepz", "unknown parameter", id="an unknown parameter"),
        pytest.param({"prompt": "x", "steps": 0}, "steps", "greater", id="no steps"),
        pytest.param({"prompt": "x", "seed": -1}, "seed", "greater", id="a negative seed"),
        pytest.param({"prompt": "x", "deadline": 0}, "deadline", "greater than 0", id="a deadline that is over"),
        pytest.param({"prompt": "x", "priority": 1000}, "priority", "less", id="a priority out of bounds"),
        pytest.param({"prompt": "x", "guidance": "high"}, "guidance", "number", id="guidance in words"),
        pytest.param({"prompt": "x", "response_format": "url"}, "response_format", "b64_json", id="pictures as links"),
        pytest.param({"prompt": "x", "model": "dall-e-3"}, "model", "no model 'dall-e-3'", id="another model"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong_as_openai_tells_it(pipeline, body, param, says):
    answer = httpx.post(f"http://127.0.0.1:{pipeline.head.port}/v1/images/generations", json=body)
    error = answer.json()["error"]
    assert answer.status_code in (400, 404)
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] in (param, {"steps": "num_inference_steps", "guidance": "guidance_scale"}.get(param))
    assert says in error["message"]


def test_a_body_that_is_not_json_and_a_route_that_is_not_there_have_the_same_shape(pipeline):
    url = f"http://127.0.0.1:{pipeline.head.port}"
    headers = {"content-type": "application/json"}
    for answer, status in (
        (httpx.post(f"{url}/v1/images/generations", content="{", headers=headers), 400),
        (httpx.get(f"{url}/v1/nothing"), 404),
        (httpx.get(f"{url}/v1/images/generations"), 405),
    ):
        assert answer.status_code == status
        assert answer.json()["error"]["message"]
        assert answer.headers["x-request-id"]


def test_the_clients_request_id_names_the_request(pipeline):
    answer = httpx.post(
        f"http://127.0.0.1:{pipeline.head.port}/v1/images/generations",
        json={"prompt": "a red one"},
        headers={"X-Request-Id": "my-own"},
        timeout=600,
    )
    assert answer.headers["x-request-id"] == "my-own"


@pytest.mark.parametrize("path", ["/", "/livez", "/readyz", "/startupz", "/metrics"])
def test_head_is_answered_as_get_is_but_for_the_body(pipeline, path):
    with httpx.Client(base_url=f"http://127.0.0.1:{pipeline.head.port}") as client:
        for _ in range(2):  # over one connection: a body would be taken for the next answer
            head, got = client.head(path), client.get(path)
            assert (head.status_code, head.content, got.status_code) == (200, b"", 200)
            assert head.headers["content-type"] == got.headers["content-type"]
            assert int(head.headers["content-length"]) > 0


def test_a_client_that_leaves_has_its_request_aborted_and_others_go_on(pipeline):
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(draw, pipeline, seed=5, num_inference_steps=400)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"http://127.0.0.1:{pipeline.head.port}/v1/images/generations",
                json={"prompt": "a red one", "steps": 1000},
                headers={"X-Request-Id": "leaves"},
                timeout=1.0,
            )
        eventually(lambda: "leaves" not in [one["client_id"] for one in pipeline.running()], "the abort")
        assert other.result(600)
    eventually(lambda: not any(one["running"] for one in pipeline.replicas()), "nothing running on the replicas")
