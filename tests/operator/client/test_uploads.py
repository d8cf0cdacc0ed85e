"""`omni generate --image`, of real pipelines that start from pictures; and of files that are none."""

import base64
import io
import subprocess
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.operator.commands.ups import omni
from tests.worker.api.heads import digits_as, head, save_specimen
from tests.worker.serving import client_of

pytestmark = pytest.mark.processes
PROMPT = "a red three on black background"
BLUE = (0, 0, 255)


@pytest.fixture(scope="module")
def starting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Digits that start from a picture, by their port."""
    with head(digits_as("QwenImageImg2ImgPipeline", tmp_path_factory.mktemp("img2img"))) as process:
        yield process.port


@pytest.fixture(scope="module")
def painting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Digits that paint within a mask."""
    with head(digits_as("QwenImageInpaintPipeline", tmp_path_factory.mktemp("inpaint"))) as process:
        yield process.port


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A tiny pipeline that makes a picture move."""
    folder = tmp_path_factory.mktemp("moving")
    model = save_specimen(
        "StableVideoDiffusionPipeline", folder, width=32, height=32, num_frames=2, num_inference_steps=2
    )
    with head(model) as process:
        yield process.port


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of somebody who has a blue picture, a mask for its right half, and a text."""
    for name in ("blue.png", "blue.jpg", "blue.webp"):
        Image.new("RGB", (32, 32), BLUE).save(tmp_path / name)
    mask = Image.new("RGBA", (32, 32), BLUE)
    mask.paste((0, 0, 0, 0), (16, 0, 32, 32))
    mask.save(tmp_path / "mask.png")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def generate(folder: Path, port: int, *flags: str, prompt: str = PROMPT) -> subprocess.CompletedProcess[str]:
    return omni(folder, "generate", prompt, f"--url=http://127.0.0.1:{port}", "--seed=1", *flags)


def pixels(file: Path | io.BytesIO) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB")).astype(int)


def test_it_draws_what_the_client_draws_of_the_same_picture(starting: int, folder: Path) -> None:
    done = generate(folder, starting, "--image=blue.png", "--strength=0.6", "--steps=10", "-o", "a.png", "--count=2")
    assert done.returncode == 0, done.stderr
    assert [line.split()[:3] for line in done.stdout.splitlines()] == [
        ["a-0.png", "seed", "1"],
        ["a-1.png", "seed", "2"],
    ]
    answer = client_of(starting).images.edit(
        image=folder / "blue.png", prompt=PROMPT, n=2,
        extra_body={"seed": 1, "strength": 0.6, "num_inference_steps": 10},
    )  # fmt: skip
    for number, picture in enumerate(answer.data or ()):
        expected = pixels(io.BytesIO(base64.b64decode(picture.b64_json or "")))
        assert np.abs(pixels(folder / f"a-{number}.png") - expected).max() <= 2


def test_the_less_strength_the_more_is_left_of_the_picture(starting: int, folder: Path) -> None:
    for strength, image, output in (("0.3", "blue.jpg", "little.png"), ("1", "blue.webp", "much.jpg")):
        done = generate(folder, starting, f"--image={image}", f"--strength={strength}", "-o", output)
        assert done.returncode == 0, done.stderr
    little, much = (np.abs(pixels(folder / name) - BLUE).mean() for name in ("little.png", "much.jpg"))
    assert little < much - 10


def test_what_is_transparent_in_the_mask_is_painted(painting: int, folder: Path) -> None:
    for colour in ("black", "grey"):
        flags = ("--image=blue.png", "--mask=mask.png", "--strength=1", "-o", f"{colour}.png")
        done = generate(folder, painting, *flags, prompt=f"a red three on {colour} background")
        assert done.returncode == 0, done.stderr
    changed = np.abs(pixels(folder / "black.png") - pixels(folder / "grey.png")).mean(axis=(0, 2))
    assert changed[:8].mean() < 15
    assert changed[24:].mean() > 40


def test_a_video_starts_from_a_picture(moving: int, folder: Path) -> None:
    Image.new("RGB", (32, 32), "yellow").save(folder / "yellow.png")
    for name in ("blue", "yellow"):
        done = generate(folder, moving, f"--image={name}.png", "-o", f"{name}.mp4")
        assert done.returncode == 0, done.stderr
    blue, yellow = (frames(folder / f"{name}.mp4") for name in ("blue", "yellow"))
    assert len(blue) == len(yellow) == 2
    assert np.abs(blue - yellow).max() > 2, "it is looked at"
    none = generate(folder, moving, "-o", "none.mp4")
    assert none.returncode == 1
    assert none.stderr.endswith("starts from a picture: send one as input_reference; give --image FILE\n")


def frames(file: Path) -> np.ndarray:
    with av.open(str(file)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(int)


REFUSED = {
    "no picture": ([], "starts from a picture: POST /v1/images/edits takes one; give --image FILE\n"),
    "two": (["--image=blue.png", "--image=blue.jpg"], "takes one picture, not 2\n"),
    "a mask": (["--image=blue.png", "--mask=mask.png"], "takes no mask: it paints the whole picture anew\n"),
    "too much": (["--image=blue.png", "--strength=2"], "strength: Input should be less than or equal to 1\n"),
    "a video": (["--image=blue.png", "-o", "a.mp4"], "makes no videos"),
}


@pytest.mark.parametrize("row", REFUSED)
def test_what_a_pipeline_does_not_take_is_refused_with_the_reason(row: str, starting: int, folder: Path) -> None:
    flags, said = REFUSED[row]
    done = generate(folder, starting, "-o", "a.png", *flags)
    assert done.returncode == 1
    assert said in done.stderr
    assert not (folder / "a.png").exists()


UNUSABLE = {
    "none there": (["--image=blue.png", "--image=gone.png"], "--image gone.png: cannot be read: No such file"),
    "a folder": (["--image=."], "--image .: cannot be read: Is a directory"),
    "a text": (["--image=notes.txt"], "--image notes.txt: not a picture in PNG, JPEG or WebP"),
    "no mask there": (["--image=blue.png", "--mask=gone.png"], "--mask gone.png: cannot be read: No such file"),
    "two for a video": (["--image=blue.png"] * 2 + ["-o", "a.mp4"], "a video starts from one picture, not 2"),
}


@pytest.mark.parametrize("row", UNUSABLE)
def test_a_file_that_cannot_be_sent_is_named_before_anything_is(row: str, folder: Path) -> None:
    """At an address where nobody would hear of it."""
    flags, said = UNUSABLE[row]
    done = generate(folder, 1, "-o", "a.png", *flags)
    assert done.returncode == 2
    assert said in done.stderr
