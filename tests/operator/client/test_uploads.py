"""`omni generate --image` with real pipelines that start from images, and with files that are no images."""

import base64
import io
import subprocess
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from omni_operator.client.uploads import form_fields
from tests.operator.commands.omni_processes import run_omni
from tests.worker.api.heads import digits_as, head, save_specimen
from tests.worker.serving import client_of

pytestmark = pytest.mark.processes
PROMPT = "a red three on black background"
BLUE = (0, 0, 255)


@pytest.fixture(scope="module")
def img2img(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A pipeline that starts from an image, by its port."""
    with head(digits_as("QwenImageImg2ImgPipeline", tmp_path_factory.mktemp("img2img"))) as process:
        yield process.port


@pytest.fixture(scope="module")
def inpaint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A pipeline that changes the masked part of an image."""
    with head(digits_as("QwenImageInpaintPipeline", tmp_path_factory.mktemp("inpaint"))) as process:
        yield process.port


@pytest.fixture(scope="module")
def image_to_video(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A tiny pipeline that makes a video from an image."""
    folder = tmp_path_factory.mktemp("image_to_video")
    model = save_specimen(
        "StableVideoDiffusionPipeline", folder, width=32, height=32, num_frames=2, num_inference_steps=2
    )
    with head(model) as process:
        yield process.port


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a blue image in each format, a mask for its right half, and a text."""
    for name in ("blue.png", "blue.jpg", "blue.webp"):
        Image.new("RGB", (32, 32), BLUE).save(tmp_path / name)
    mask = Image.new("RGBA", (32, 32), BLUE)
    mask.paste((0, 0, 0, 0), (16, 0, 32, 32))
    mask.save(tmp_path / "mask.png")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def generate(folder: Path, port: int, *flags: str, prompt: str = PROMPT) -> subprocess.CompletedProcess[str]:
    return run_omni(folder, "generate", prompt, f"--url=http://127.0.0.1:{port}", "--seed=1", *flags)


def pixels(file: Path | io.BytesIO) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB")).astype(int)


def test_an_edit_equals_that_of_the_openai_client(img2img: int, folder: Path) -> None:
    result = generate(folder, img2img, "--image=blue.png", "--strength=0.6", "--steps=10", "-o", "a.png", "--count=2")
    assert result.returncode == 0, result.stderr
    assert [line.split()[:3] for line in result.stdout.splitlines()] == [
        ["a-0.png", "seed", "1"],
        ["a-1.png", "seed", "2"],
    ]
    answer = client_of(img2img).images.edit(
        image=folder / "blue.png", prompt=PROMPT, n=2,
        extra_body={"seed": 1, "strength": 0.6, "num_inference_steps": 10},
    )  # fmt: skip
    for number, picture in enumerate(answer.data or ()):
        expected = pixels(io.BytesIO(base64.b64decode(picture.b64_json or "")))
        assert np.abs(pixels(folder / f"a-{number}.png") - expected).max() <= 2


def test_less_strength_keeps_more_of_the_image(img2img: int, folder: Path) -> None:
    for strength, image, output in (("0.3", "blue.jpg", "little.png"), ("1", "blue.webp", "much.jpg")):
        result = generate(folder, img2img, f"--image={image}", f"--strength={strength}", "-o", output)
        assert result.returncode == 0, result.stderr
    little, much = (np.abs(pixels(folder / name) - BLUE).mean() for name in ("little.png", "much.jpg"))
    assert little < much - 10


def test_only_the_transparent_part_of_the_mask_changes(inpaint: int, folder: Path) -> None:
    for colour in ("black", "grey"):
        flags = ("--image=blue.png", "--mask=mask.png", "--strength=1", "-o", f"{colour}.png")
        result = generate(folder, inpaint, *flags, prompt=f"a red three on {colour} background")
        assert result.returncode == 0, result.stderr
    changed = np.abs(pixels(folder / "black.png") - pixels(folder / "grey.png")).mean(axis=(0, 2))
    assert changed[:8].mean() < 15
    assert changed[24:].mean() > 40


def test_a_video_starts_from_an_image(image_to_video: int, folder: Path) -> None:
    Image.new("RGB", (32, 32), "yellow").save(folder / "yellow.png")
    for name in ("blue", "yellow"):
        result = generate(folder, image_to_video, f"--image={name}.png", "-o", f"{name}.mp4")
        assert result.returncode == 0, result.stderr
    blue, yellow = (frames(folder / f"{name}.mp4") for name in ("blue", "yellow"))
    assert len(blue) == len(yellow) == 2
    assert np.abs(blue - yellow).max() > 2, "the video depends on the image"
    without_image = generate(folder, image_to_video, "-o", "none.mp4")
    assert without_image.returncode == 1
    assert without_image.stderr.endswith("starts from an image: send one as input_reference; give --image FILE\n")


def frames(file: Path) -> np.ndarray:
    with av.open(str(file)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(int)


REJECTED = {
    "no picture": ([], "starts from an image: POST /v1/images/edits takes one; give --image FILE\n"),
    "two": (["--image=blue.png", "--image=blue.jpg"], "takes one image, not 2\n"),
    "a mask": (["--image=blue.png", "--mask=mask.png"], "takes no mask: it repaints the whole image\n"),
    "too much": (["--image=blue.png", "--strength=2"], "strength: Input should be less than or equal to 1\n"),
    "a video": (["--image=blue.png", "-o", "a.mp4"], "makes no videos"),
}


@pytest.mark.parametrize("row", REJECTED)
def test_an_upload_that_does_not_fit_the_pipeline_is_rejected_with_a_reason(
    row: str, img2img: int, folder: Path
) -> None:
    flags, message = REJECTED[row]
    result = generate(folder, img2img, "-o", "a.png", *flags)
    assert result.returncode == 1
    assert message in result.stderr
    assert not (folder / "a.png").exists()


UNUSABLE = {
    "none there": (["--image=blue.png", "--image=gone.png"], "--image gone.png: cannot be read: No such file"),
    "a folder": (["--image=."], "--image .: cannot be read: Is a directory"),
    "a text": (["--image=notes.txt"], "--image notes.txt: not a picture in PNG, JPEG or WebP"),
    "no mask there": (["--image=blue.png", "--mask=gone.png"], "--mask gone.png: cannot be read: No such file"),
    "two for a video": (["--image=blue.png"] * 2 + ["-o", "a.mp4"], "a video starts from one picture, not 2"),
}


@pytest.mark.parametrize("row", UNUSABLE)
def test_an_unusable_file_is_reported_before_anything_is_sent(row: str, folder: Path) -> None:
    """The address has no server, so a request would fail with another message."""
    flags, message = UNUSABLE[row]
    result = generate(folder, 1, "-o", "a.png", *flags)
    assert result.returncode == 2
    assert message in result.stderr


def test_a_form_has_lists_as_json() -> None:
    assert form_fields({"cache": {"mode": "skip"}}) == {"cache": '{"mode": "skip"}'}
    assert form_fields({"n": 1, "loras": [{"name": "ink"}]}) == {"n": 1, "loras": '[{"name": "ink"}]'}
