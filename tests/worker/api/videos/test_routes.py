"""videos.*, as the official client calls them."""

import base64
import io
import itertools
import time

import av
import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from tests.worker.api.heads import head, save_specimen
from tests.worker.api.odd_values import check_json, client_at
from tests.worker.serving import client_of, eventually

pytestmark = [pytest.mark.processes, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
SMALL = {"num_frames": 5, "num_inference_steps": 2, "seed": 3}
LONG = {"num_frames": 5, "num_inference_steps": 400, "seed": 3}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny Wan with random weights."""
    return save_specimen(
        "WanPipeline", tmp_path_factory.mktemp("wan"), width=32, height=32, num_frames=5, num_inference_steps=2
    )


@pytest.fixture(scope="module")
def port(model, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("data"))
    with head(
        model, "--data-dir", folder, "--video-jobs", "2", "--max-frames", "200", "--max-video-pixels", "200000"
    ) as process:
        yield process.port


def create(port, prompt="a red panda", size="32x32", extra=SMALL, **fields):
    return client_of(port).videos.create(prompt=prompt, size=size, extra_body=extra, **fields)


def ended(port, id, seconds=60):
    def check():
        video = client_of(port).videos.retrieve(id)
        return video.status in ("completed", "failed") and video

    return eventually(check, f"the end of {id}", seconds)


def frames(data):
    with av.open(io.BytesIO(data)) as container:
        (stream,) = container.streams.video
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)], float(stream.average_rate)


def test_a_video_is_made_and_downloaded(port):
    videos = client_of(port).videos
    video = create(port)
    assert (video.object, video.model, video.prompt, video.size) == ("video", "tiny", "a red panda", "32x32")
    assert video.status in ("queued", "in_progress")
    done = ended(port, video.id)
    assert (done.status, done.progress, done.error) == ("completed", 100, None)
    assert done.created_at <= done.completed_at < done.expires_at
    pictures, rate = frames(videos.download_content(video.id).read())
    assert (len(pictures), pictures[0].shape, rate) == (5, (32, 32, 3), 16.0)
    for variant, format in (("thumbnail", "WEBP"), ("spritesheet", "JPEG")):
        file = videos.download_content(video.id, variant=variant).read()
        assert Image.open(io.BytesIO(file)).format == format
    whole = videos.download_content(video.id).read()
    url = f"http://127.0.0.1:{port}/v1/videos/{video.id}/content"
    rest = httpx.get(url, headers={"Range": "bytes=100-"})
    assert (rest.status_code, rest.content) == (206, whole[100:]), "a download is resumed"
    assert rest.headers["Content-Range"] == f"bytes 100-{len(whole) - 1}/{len(whole)}"
    tag = rest.headers["ETag"]
    assert httpx.get(url, headers={"Range": "bytes=0-3", "If-Range": tag}).content == whole[:4]
    assert httpx.get(f"{url}?variant=thumbnail", headers={"Range": "bytes=0-3", "If-Range": tag}).status_code == 200
    beyond = httpx.get(url, headers={"Range": f"bytes={len(whole)}-"})
    assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, f"bytes */{len(whole)}")
    assert beyond.json()["error"]["param"] == "Range"
    assert videos.delete(video.id).deleted
    with pytest.raises(openai.NotFoundError, match="there is no video"):
        videos.retrieve(video.id)


def test_seconds_become_the_nearest_frames_that_the_model_can_make(port):
    video = create(port, seconds="0.5", extra={"num_inference_steps": 1, "fps": 24})
    assert ended(port, video.id).seconds == "0.5"
    pictures, rate = frames(client_of(port).videos.download_content(video.id).read())
    assert (len(pictures), rate) == (13, 24.0)
    assert create(port, extra={"num_inference_steps": 1}).seconds == "0.3125"


def test_progress_is_that_of_the_steps_and_a_running_video_may_be_deleted(port):
    video = create(port, extra=LONG)
    seen = []

    def under_way():
        seen.append(client_of(port).videos.retrieve(video.id))
        return seen[-1].progress >= 5

    eventually(under_way, "some progress")
    assert all(a.progress <= b.progress for a, b in itertools.pairwise(seen))
    assert seen[-1].status == "in_progress"
    with pytest.raises(openai.BadRequestError, match="nothing to download"):
        client_of(port).videos.download_content(video.id)
    client_of(port).videos.delete(video.id)


def test_no_more_run_at_one_time_than_are_allowed(port):
    ids = [create(port, extra=LONG).id for _ in range(3)]
    videos = client_of(port).videos

    def two_run():
        states = [videos.retrieve(id).status for id in ids]
        assert states.count("in_progress") <= 2
        return states == ["in_progress", "in_progress", "queued"]

    eventually(two_run, "two of them running")
    time.sleep(0.5)
    assert two_run()
    videos.delete(ids[0])
    eventually(lambda: videos.retrieve(ids[2]).status == "in_progress", "the third to take its place")
    for id in ids[1:]:
        videos.delete(id)


def test_videos_are_listed_page_by_page(port):
    videos = client_of(port).videos
    for video in videos.list():
        videos.delete(video.id)
    ids = [create(port, prompt=f"number {i}").id for i in range(5)]
    assert [one.id for one in videos.list(limit=2)] == ids[::-1], "the client asks for the pages that follow"
    page = videos.list(limit=2, order="asc")
    assert ([one.id for one in page.data], page.has_more, page.last_id) == (ids[:2], True, ids[1])
    assert [one.id for one in videos.list(after=ids[3], order="asc")] == ids[4:]
    with pytest.raises(openai.BadRequestError, match="no video 'x'"):
        videos.list(after="x")


def test_what_is_refused_is_refused_with_the_reason(port):
    videos = client_of(port).videos
    for fields, param, says in (
        ({"seconds": "long"}, "seconds", "pattern"),
        ({"seconds": "60"}, "seconds", "more than the 200 allowed"),
        ({"seconds": "4", "extra": SMALL}, "num_frames", "leave one out"),
        ({"size": "128x128", "extra": {"num_frames": 17}}, "size", "278528 pixels, more than the 200000"),
        ({"size": "33x32"}, "size", "multiple of 8"),
        ({"model": "sora-2"}, "model", "there is no model"),
        ({"prompt": ""}, "prompt", "missing parameter"),
        ({"input_reference": ("x.png", b"x")}, "input_reference", "takes no image"),
        ({"input_reference": ("x.png", png())}, "input_reference", "takes no image"),
    ):
        with pytest.raises(openai.APIStatusError) as caught:
            create(port, **{"extra": {}, **fields})
        assert caught.value.param == param
        assert says in caught.value.message
    for call in (
        lambda: videos.remix("video_1", prompt="again"),
        lambda: videos.edit(prompt="again", video=b"mp4"),
        lambda: videos.extend(prompt="on", seconds="4", video=b"mp4"),
        lambda: videos.create_character(name="cat", video=b"mp4"),
    ):
        with pytest.raises(openai.BadRequestError, match="not from other videos"):
            call()
    with pytest.raises(openai.BadRequestError, match="POST /v1/videos takes the request"):
        client_of(port).images.generate(prompt="a red panda")


def test_odd_values_are_no_errors_of_the_server(port):
    base = {"prompt": "a red panda", "num_frames": 5, "num_inference_steps": 1, "size": "32x32"}
    nested = {
        "a reference": '{"prompt": "x", "input_reference": %}',
        "a reference's url": '{"prompt": "x", "input_reference": {"image_url": %}}',
    }
    with client_at(port) as client:
        check_json(client, "/v1/videos", base, nested)
    videos = client_of(port).videos
    for video in list(videos.list()):
        assert video.error is None or video.error.code != "internal_error", video
        videos.delete(video.id)
    url = f"http://127.0.0.1:{port}/v1/videos"
    for path in (
        "/video_%00",
        "/%ED%A0%BD",
        "?after=%00",
        "?after=%ED%A0%BD",
        "?limit=1e400",
        "?order=%00",
        "/x/content",
    ):
        assert httpx.get(url + path).status_code in (400, 404), path


def png():
    file = io.BytesIO()
    Image.new("RGB", (32, 32), "blue").save(file, "PNG")
    return file.getvalue()


def in_json(port, **body):
    return httpx.post(f"http://127.0.0.1:{port}/v1/videos", json={"prompt": "a red panda", **body}, timeout=30)


def test_a_job_may_be_asked_for_in_json(port):
    answer = in_json(port, num_frames=5, steps=2)
    assert answer.status_code == 200
    assert ended(port, answer.json()["id"]).status == "completed"
    for body, says in (
        ({"input_reference": {"image_url": "https://example.org/x.png"}}, "fetches nothing"),
        ({"seconds": 4}, "seconds: Input should be a valid string"),
        ({"n": 2}, "unknown parameter: 'n'"),
    ):
        answer = in_json(port, **body)
        assert answer.status_code == 400
        assert says in answer.json()["error"]["message"]


def test_a_job_that_the_model_fails_on_says_why(port):
    video = create(port, size="40x40")  # a multiple of the autoencoder's factor, and not of the patches' as well
    failed = ended(port, video.id)
    assert failed.status == "failed"
    assert "divisible by 16" in failed.error.message
    assert failed.error.code == "invalid_value"


def test_a_job_outlasts_its_head_and_gives_the_same_video(model, tmp_path):
    extra = LONG | {"num_inference_steps": 60}
    flags = ("--data-dir", str(tmp_path / "data"), "--video-max-bytes", "1")
    with head(model, *flags[:2]) as process:
        expected = create(process.port, extra=extra).id
        ended(process.port, expected)
        video = create(process.port, extra=extra).id
        eventually(lambda: client_of(process.port).videos.retrieve(video).progress >= 5, "some progress")
        process.popen.kill()
        process.popen.wait()
    with head(model, *flags[:2]) as process:
        videos = client_of(process.port).videos
        assert ended(process.port, video).status == "completed"
        first, second = (frames(videos.download_content(id).read())[0] for id in (expected, video))
        assert np.abs(np.stack(first).astype(int) - np.stack(second)).max() <= 2
        with (
            pytest.raises(AssertionError, match="another head uses it; give each a folder of its own"),
            head(model, *flags[:2]),
        ):
            pass
    with head(model, *flags, replicas=0) as process:
        eventually(lambda: not list(client_of(process.port).videos.list()), "the videos to be too many bytes")


def test_a_job_in_a_postgres_outlasts_its_head(model, database, monkeypatch):
    flags = ("--database-url", database)
    with head(model, *flags) as process:
        done = create(process.port).id
        assert ended(process.port, done).status == "completed"
        for body in ({"prompt": "a \0cat"}, {"prompt": "a", "user": "\0", "tenant": "\0", "negative_prompt": "\0"}):
            assert in_json(process.port, **SMALL, **body).status_code in (200, 400)
        for path in ("/video_%00", "?after=%00"):
            assert httpx.get(f"http://127.0.0.1:{process.port}/v1/videos{path}").status_code in (400, 404)
        expected = client_of(process.port).videos.download_content(done).read()
        video = create(process.port, extra=LONG | {"num_inference_steps": 60}).id
        eventually(lambda: client_of(process.port).videos.retrieve(video).progress >= 5, "some progress")
        process.popen.kill()
        process.popen.wait()
    monkeypatch.setenv("OMNI_DATABASE_URL", database)
    with head(model) as process:
        assert client_of(process.port).videos.download_content(done).read() == expected
        assert ended(process.port, video).status == "completed"


def test_a_video_may_start_from_a_picture_and_expires(tmp_path_factory):
    model = save_specimen(
        "StableVideoDiffusionPipeline", tmp_path_factory.mktemp("svd"), width=32, height=32, num_frames=2
    )
    with head(model, "--video-max-age", "0.0006") as process:
        reference = {"image_url": "data:image/png;base64," + base64.b64encode(png()).decode()}
        video = create(process.port, extra={"num_inference_steps": 2, "seed": 1}, input_reference=("x.png", png()))
        other = in_json(process.port, size="32x32", steps=2, seed=1, input_reference=reference).json()
        for id in (video.id, other["id"]):
            assert ended(process.port, id).status == "completed", ended(process.port, id).error
        with pytest.raises(openai.BadRequestError, match="send one as input_reference"):
            create(process.port)
        eventually(lambda: not list(client_of(process.port).videos.list()), "the videos to expire")
