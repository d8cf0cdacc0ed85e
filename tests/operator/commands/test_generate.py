"""`omni generate` as a user runs it, with pipelines that `omni up` serves."""

import io
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from omni_worker.models.digits_reader import read
from tests.operator.commands.omni_processes import EXAMPLES, OMNI, PATIENCE, OmniUp, eventually, run_omni

pytestmark = pytest.mark.processes
PROMPT = "a red three on black background"
QUESTION = "two plus five, in blue"


@pytest.fixture(scope="module")
def two_stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OmniUp]:
    """A thinker and a painter, served."""
    with OmniUp(tmp_path_factory.mktemp("two_stages"), str(EXAMPLES / "digits-thinker.yaml"), "--port=0") as up:
        yield up


def test_it_finds_the_local_pipeline_and_writes_an_image(up: OmniUp, tmp_path: Path) -> None:
    file = tmp_path / "three.png"
    result = run_omni(up.folder, "generate", PROMPT, "-o", str(file), "--size=32x32", "--steps=4", "--seed=3")
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(rf"{re.escape(str(file))}  seed 3  \d+\.\d s\n", result.stdout)
    assert Image.open(io.BytesIO(file.read_bytes())).size == (32, 32)


def test_the_same_seed_gives_the_same_image_and_each_of_several_has_its_own(up: OmniUp, tmp_path: Path) -> None:
    once, many = tmp_path / "once.png", tmp_path / "many.png"
    common = ["generate", PROMPT, "--size=32x32", "--steps=2", "--guidance=2", "--seed=5"]
    assert run_omni(up.folder, *common, "-o", str(once)).returncode == 0
    result = run_omni(up.folder, *common, "-o", str(many), "--count=3")
    assert result.returncode == 0, result.stderr
    files = [tmp_path / f"many-{index}.png" for index in range(3)]
    assert [line.split()[:3] for line in result.stdout.splitlines()] == [
        [str(file), "seed", str(5 + index)] for index, file in enumerate(files)
    ]
    pixels = [Image.open(file).tobytes() for file in (once, *files)]
    assert pixels[0] == pixels[1]
    assert len(set(pixels[1:])) == 3


@pytest.mark.parametrize("how", ["--url", "OMNI_URL"])
def test_it_accepts_an_address(up: OmniUp, tmp_path: Path, how: str) -> None:
    url = up.url
    flags = [f"--url={url}"] if how == "--url" else []
    environment = {"OMNI_URL": url} if how == "OMNI_URL" else {}
    result = run_omni(tmp_path, "generate", PROMPT, "-o", "a.png", "--steps=1", *flags, environment=environment)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "a.png").exists()


def test_an_error_of_the_server_is_reported(up: OmniUp, tmp_path: Path) -> None:
    result = run_omni(up.folder, "generate", PROMPT, "-o", str(tmp_path / "a.png"), "--size=abc")
    assert result.returncode == 1
    assert result.stderr.startswith("omni generate: digits on this machine answers 400: ")
    assert "size" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "a.png").exists()


def test_asking_an_image_pipeline_for_text_says_how_to_ask_for_an_image(up: OmniUp) -> None:
    result = run_omni(up.folder, "generate", PROMPT)
    assert result.returncode == 1
    assert "this pipeline gives image, not text; give -o FILE for a picture" in result.stderr


def test_asking_an_image_pipeline_for_a_video_says_how_to_ask_for_an_image(up: OmniUp, tmp_path: Path) -> None:
    result = run_omni(up.folder, "generate", PROMPT, "-o", str(tmp_path / "a.mp4"))
    assert result.returncode == 1
    assert "QwenImagePipeline makes no videos" in result.stderr
    assert "give -o FILE.png for a picture" in result.stderr


def test_asking_an_image_pipeline_for_sound_says_how_to_ask_for_an_image(up: OmniUp, tmp_path: Path) -> None:
    result = run_omni(up.folder, "generate", PROMPT, "-o", str(tmp_path / "a.wav"))
    assert result.returncode == 1
    assert "QwenImagePipeline makes no sound: it makes images" in result.stderr
    assert result.stderr.endswith("give -o FILE.png for a picture, or FILE.mp4 for a video\n")
    assert not (tmp_path / "a.wav").exists()


def test_an_image_is_rejected_by_a_pipeline_that_takes_only_a_prompt(up: OmniUp, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "black.png")
    result = run_omni(
        up.folder, "generate", PROMPT, "--image", str(tmp_path / "black.png"), "-o", str(tmp_path / "a.png")
    )
    assert result.returncode == 1
    assert "QwenImagePipeline takes no image to start from, only a prompt" in result.stderr
    assert not (tmp_path / "a.png").exists()


def test_a_local_pipeline_with_another_name_is_not_used(up: OmniUp, tmp_path: Path) -> None:
    result = run_omni(up.folder, "generate", PROMPT, "-o", str(tmp_path / "a.png"), "--pipeline=letters")
    assert result.returncode == 1
    assert "there is no pipeline letters on this machine; there are: digits" in result.stderr


def test_the_suffix_of_the_file_chooses_the_image_format(up: OmniUp, tmp_path: Path) -> None:
    for name, kind in {"a.webp": "WEBP", "a.JPG": "JPEG", "a": "PNG"}.items():
        result = run_omni(up.folder, "generate", PROMPT, "-o", str(tmp_path / name))
        assert result.returncode == 0, result.stderr
        assert Image.open(tmp_path / name).format == kind


def test_standard_output_gets_the_file_and_nothing_else(up: OmniUp, tmp_path: Path) -> None:
    for arguments, image_format in (([], "PNG"), (["--format=webp"], "WEBP")):
        command = [OMNI, "generate", PROMPT, "-o", "-", "--steps=1", *arguments]
        result = subprocess.run(command, capture_output=True, env={**os.environ, "OMNI_URL": up.url}, timeout=PATIENCE)
        assert result.returncode == 0, result.stderr
        assert Image.open(io.BytesIO(result.stdout)).format == image_format


def heed_interrupts() -> None:
    """Undo what a shell without job control does to the programs that it starts in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_ctrl_c_ends_the_command_and_its_request(up: OmniUp, tmp_path: Path) -> None:
    def running() -> list[object]:
        listed: list[object] = httpx.get(f"{up.url}/omni/requests").json()["requests"]
        return listed

    file = tmp_path / "never.png"
    command = [OMNI, "generate", PROMPT, "-o", str(file), "--steps=1000", "--size=256x256"]
    generate = subprocess.Popen(
        command, stderr=subprocess.PIPE, env={**os.environ, "OMNI_URL": up.url}, preexec_fn=heed_interrupts
    )
    eventually(running, "the request runs")
    generate.send_signal(signal.SIGINT)
    _, errors = generate.communicate(timeout=PATIENCE)
    assert generate.returncode == 130
    assert b"Traceback" not in errors
    assert not file.exists()
    eventually(lambda: not running(), "the request has ended")


def test_a_sum_becomes_an_image_of_its_result(two_stages: OmniUp, tmp_path: Path) -> None:
    file = tmp_path / "seven.png"
    result = run_omni(two_stages.folder, "generate", QUESTION, "-o", str(file), "--size=32x32", "--steps=4", "--seed=3")
    assert result.returncode == 0, result.stderr
    reading = read(Image.open(file))
    assert (reading.digit, reading.colour) == (7, "blue")


def test_without_a_file_the_text_of_the_thinker_is_printed(two_stages: OmniUp) -> None:
    result = run_omni(two_stages.folder, "generate", QUESTION)
    assert result.returncode == 0, result.stderr
    assert "a blue seven" in result.stdout


UNUSABLE: dict[str, tuple[list[str], int, str]] = {
    "no pipeline anywhere": (["-o", "a.png"], 1, "no pipeline was found: give --url, set OMNI_URL, run `omni up FILE`"),
    "no server at the address": (
        ["-o", "a.png", "--url=http://127.0.0.1:9"],
        1,
        "nothing answers at http://127.0.0.1:9",
    ),
    "a malformed address": (["-o", "a.png", "--url=localhost"], 1, "'localhost' is not an address"),
    "a size for text": (["--size=32x32"], 2, "--size is not an option of text; give -o FILE for a picture"),
    "several sounds": (["-o", "a.wav", "--count=2"], 2, "--count is not an option of sounds; leave it out"),
    "a size for a sound": (["-o", "a.mp3", "--size=8x8"], 2, "--size is not an option of sounds; leave it out"),
    "a length that is no number": (["-o", "a.ogg", "--seconds=long"], 2, "--seconds long: expected a number, like 8"),
    "several videos": (["-o", "a.mp4", "--count=2"], 2, "--count is not an option of videos"),
    "a length for an image": (["-o", "a.png", "--seconds=2"], 2, "--seconds is not an option of pictures"),
    "a mask for text": (["--mask=a.png"], 2, "--mask is not an option of text; give -o FILE for a picture"),
    "a mask for a video": (["-o", "a.mp4", "--mask=a.png"], 2, "--mask is not an option of videos; leave it out\n"),
    "a mask without an image": (
        ["-o", "a.png", "--mask=a.png"],
        2,
        "--mask is about a picture to start from; give --image",
    ),
    "a strength without an image": (
        ["-o", "a.png", "--strength=0.5"],
        2,
        "--strength is about a picture to start from; give",
    ),
    "tokens for an image": (["-o", "a.png", "--max-tokens=9"], 2, "--max-tokens is not an option of pictures"),
    "no pipeline for text": ([], 1, "no pipeline was found: give --url"),
    "a missing folder": (["-o", "no/a.png"], 2, "-o no/a.png: there is no folder no; make it first"),
    "an unknown suffix": (
        ["-o", "a.gif"],
        2,
        "-o a.gif: expected a name that ends in .png, .jpg, .webp, or in .mp4 for a video, or in .wav, .mp3, .flac, "
        ".opus, .ogg, .aac for sound",
    ),
    "a folder that cannot be written": (["-o", "/proc/a.png"], 2, "-o /proc/a.png: cannot be written ("),
    "several images to standard output": (["-o", "-", "--count=2"], 2, "--count 2: standard output takes one file"),
    "JSON and an image to standard output": (["-o", "-", "--json"], 2, "--json: standard output takes one file"),
    "a format of a named file": (["-o", "a.png", "--format=jpg"], 2, "--format jpg: is for -o -; the name of a file"),
    "an unknown format": (["-o", "-", "--format=gif"], 2, "--format gif: expected .png, .jpg, .webp"),
    "a misspelled option": (
        ["-o", "a.png", "--stpes=4"],
        2,
        "unrecognized arguments: --stpes=4; did you mean --steps?",
    ),
    "a host that does not exist": (
        ["-o", "a.png", "--url=http://no-such-host.invalid"],
        1,
        "the host no-such-host.invalid of http://no-such-host.invalid cannot be resolved",
    ),
    "a folder instead of a file": (["-o", "."], 2, "-o .: is a folder"),
    "zero images": (["-o", "a.png", "--count=0"], 2, "--count 0: expected 1 or more"),
}


@pytest.mark.parametrize("row", UNUSABLE)
def test_an_unusable_request_is_reported(tmp_path: Path, row: str) -> None:
    arguments, code, message = UNUSABLE[row]
    result = run_omni(tmp_path, "generate", PROMPT, *arguments)
    assert result.returncode == code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_predictable_calls_are_left_out_on_request(up: OmniUp, tmp_path: Path) -> None:
    common = ("generate", PROMPT, "-o", str(tmp_path / "a.png"), "--steps=12")
    for cache in ("skip", "skip,tolerance=0.3,maxConsecutive=2", "first-block,threshold=0.2", "none"):
        assert run_omni(up.folder, *common, f"--cache={cache}").returncode == 0
    unusable = run_omni(up.folder, *common, "--cache=text-kv")
    assert unusable.returncode == 1
    assert "text-kv cannot be used with this model" in unusable.stderr
    for cache, complaint in (("skip,tolerance=2", "tolerance: "), ("skip,much", "'much' is no setting")):
        wrong = run_omni(up.folder, *common, f"--cache={cache}")
        assert wrong.returncode == 2
        assert complaint in wrong.stderr


def test_an_adapter_is_selected_by_name_and_scale(up: OmniUp, tmp_path: Path) -> None:
    common = ("generate", PROMPT, "-o", str(tmp_path / "a.png"))
    unknown = run_omni(up.folder, *common, "--lora=ink=0.5")
    assert unknown.returncode == 1
    assert "there is no LoRA 'ink'; this server has none" in unknown.stderr
    wrong = run_omni(up.folder, *common, "--lora=ink=much")
    assert wrong.returncode == 2
    assert "'much' is no scale" in wrong.stderr
