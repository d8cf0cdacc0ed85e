"""`omni up` and `omni generate` as a user runs them: real commands, real worker processes, the built-in model."""

import io
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from omni_worker.models.digits_reader import read
from tests.operator.commands.ups import Up, command_lines, eventually, omni

pytestmark = pytest.mark.processes
ROOT = Path(__file__).parents[3]
EXAMPLE = str(ROOT / "examples/digits.yaml")
PROMPT = "a red three on black background"

MANIFEST = """
apiVersion: omnipipeline.dev/v1alpha1
kind: OmniPipeline
metadata: {name: digits}
spec:
  model: {source: builtin://digits}
  stages:
  - {name: painter, engine: diffusion}
"""


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """The example, served."""
    up = Up(tmp_path_factory.mktemp("up"), EXAMPLE, "--port=0")
    try:
        line = up.first_line()
        assert re.fullmatch(r"API: http://127\.0\.0\.1:\d+\n", line)
        up.url = line.split()[1]
        yield up
    finally:
        up.close()


# ---- serving


def test_it_tells_what_starts_and_how_to_use_it(up: Up) -> None:
    eventually(lambda: "omni generate" in up.messages(), "what to do with it")
    messages = up.messages()
    assert "pipeline digits: builtin://digits, a head, 2 × painter" in messages
    assert "painter-1: ready" in messages


def test_the_api_serves_the_pipeline_by_its_name(up: Up) -> None:
    models = httpx.get(f"{up.url}/v1/models").json()["data"]
    assert [model["id"] for model in models] == ["digits"]


def test_generate_finds_it_and_writes_a_picture(up: Up, tmp_path: Path) -> None:
    file = tmp_path / "three.png"
    done = omni(up.folder, "generate", PROMPT, "-o", str(file), "--size=32x32", "--steps=4", "--seed=3")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(rf"{re.escape(str(file))}  seed 3  \d+\.\d s\n", done.stdout)
    assert Image.open(io.BytesIO(file.read_bytes())).size == (32, 32)


def test_the_same_seed_draws_the_same_picture_and_several_have_their_own(up: Up, tmp_path: Path) -> None:
    once, many = tmp_path / "once.png", tmp_path / "many.png"
    common = ["generate", PROMPT, "--size=32x32", "--steps=2", "--guidance=2", "--seed=5"]
    assert omni(up.folder, *common, "-o", str(once)).returncode == 0
    done = omni(up.folder, *common, "-o", str(many), "--count=3")
    assert done.returncode == 0, done.stderr
    files = [tmp_path / f"many-{index}.png" for index in range(3)]
    assert [line.split()[:3] for line in done.stdout.splitlines()] == [
        [str(file), "seed", str(5 + index)] for index, file in enumerate(files)
    ]
    pixels = [Image.open(file).tobytes() for file in (once, *files)]
    assert pixels[0] == pixels[1]
    assert len(set(pixels[1:])) == 3


@pytest.mark.parametrize("how", ["--url", "OMNI_URL"])
def test_generate_takes_an_address(up: Up, tmp_path: Path, how: str) -> None:
    url = up.url
    flags = [f"--url={url}"] if how == "--url" else []
    environment = {"OMNI_URL": url} if how == "OMNI_URL" else {}
    done = omni(tmp_path, "generate", PROMPT, "-o", "a.png", "--steps=1", *flags, environment=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.png").exists()


def test_generate_tells_what_the_server_refuses(up: Up, tmp_path: Path) -> None:
    done = omni(up.folder, "generate", PROMPT, "-o", str(tmp_path / "a.png"), "--size=abc")
    assert done.returncode == 1
    assert done.stderr.startswith("omni generate: digits on this machine answers 400: ")
    assert "size" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "a.png").exists()


def test_generate_says_how_a_picture_is_asked_for_where_there_is_no_text(up: Up) -> None:
    done = omni(up.folder, "generate", PROMPT)
    assert done.returncode == 1
    assert "this pipeline gives image, not text; give -o FILE for a picture" in done.stderr


def test_generate_says_how_a_picture_is_asked_for_where_there_are_no_videos(up: Up, tmp_path: Path) -> None:
    done = omni(up.folder, "generate", PROMPT, "-o", str(tmp_path / "a.mp4"))
    assert done.returncode == 1
    assert "QwenImagePipeline makes no videos" in done.stderr
    assert "give -o FILE.png for a picture" in done.stderr


def test_generate_says_so_where_no_picture_is_started_from(up: Up, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "black.png")
    done = omni(up.folder, "generate", PROMPT, "--image", str(tmp_path / "black.png"), "-o", str(tmp_path / "a.png"))
    assert done.returncode == 1
    assert "QwenImagePipeline takes no picture to start from, only a prompt" in done.stderr
    assert not (tmp_path / "a.png").exists()


def test_generate_does_not_take_another_pipeline_for_it(up: Up, tmp_path: Path) -> None:
    done = omni(up.folder, "generate", PROMPT, "-o", str(tmp_path / "a.png"), "--pipeline=letters")
    assert done.returncode == 1
    assert "there is no pipeline letters on this machine; there are: digits" in done.stderr


def test_a_picture_is_a_file_of_the_kind_that_its_name_says(up: Up, tmp_path: Path) -> None:
    for name, kind in {"a.webp": "WEBP", "a.JPG": "JPEG", "a": "PNG"}.items():
        done = omni(up.folder, "generate", PROMPT, "-o", str(tmp_path / name))
        assert done.returncode == 0, done.stderr
        assert Image.open(tmp_path / name).format == kind


# ---- two stages

QUESTION = "two plus five, in blue"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A thinker and a painter, served."""
    with Up(tmp_path_factory.mktemp("two"), str(ROOT / "examples/digits-thinker.yaml"), "--port=0") as up:
        yield up


def test_a_sum_becomes_a_picture_of_its_result(two: Up, tmp_path: Path) -> None:
    file = tmp_path / "seven.png"
    done = omni(two.folder, "generate", QUESTION, "-o", str(file), "--size=32x32", "--steps=4", "--seed=3")
    assert done.returncode == 0, done.stderr
    seen = read(Image.open(file))
    assert (seen.digit, seen.colour) == (7, "blue")


def test_without_a_file_the_thinkers_words_are_printed(two: Up) -> None:
    done = omni(two.folder, "generate", QUESTION)
    assert done.returncode == 0, done.stderr
    assert "a blue seven" in done.stdout


def test_only_this_user_can_read_the_secret_of_a_run(two: Up) -> None:
    (file,) = two.folder.glob("omnipipeline/up/*/secret")
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(file.read_text()) >= 32


# ---- ending


def test_a_killed_replica_comes_back_and_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    up = Up(tmp_path, EXAMPLE, "--port=0")
    try:
        url = up.first_line().split()[1]
        victim = next(
            int(process.name)
            for process in Path("/proc").glob("[0-9]*")
            if str(tmp_path).encode() in environment_of(process) and b"--headless" in command_line_of(process)
        )
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: "was killed by SIGKILL" in up.messages(), "word of the death")
        answer = httpx.post(f"{url}/v1/images/generations", json={"prompt": PROMPT, "steps": 1}, timeout=120)
        assert answer.status_code == 200, "the other replica serves"
        eventually(lambda: ready_count(up) == 4, "the replica again")
        assert up.stop() == 0
        assert "stopping" in up.messages()
        assert command_lines(tmp_path) == []
        assert not list(tmp_path.glob("omnipipeline/up/*")), "no log is left of a run that ended well"
    finally:
        up.close()


def ready_count(up: Up) -> int:
    return up.messages().count(": ready\n")


def environment_of(process: Path) -> bytes:
    try:
        return (process / "environ").read_bytes()
    except OSError:
        return b""


def command_line_of(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def test_nothing_outlives_an_omni_up_that_is_killed(tmp_path: Path) -> None:
    up = Up(tmp_path, EXAMPLE, "--port=0")
    try:
        up.first_line()
        assert len(command_lines(tmp_path)) >= 4
        up.process.kill()
        up.process.wait()
        eventually(lambda: command_lines(tmp_path) == [], "the end of every process")
    finally:
        up.close()


# ---- refusing

REFUSED: dict[str, tuple[str, list[str], int, str]] = {
    "a file that is not there": ("", ["missing.yaml"], 2, "missing.yaml: there is no such file"),
    "no file": ("", [], 2, "the following arguments are required: FILE"),
    "a port that is none": (MANIFEST, ["bad.yaml", "--port=http"], 2, "'http' is not a port; give a number from 1 to"),
    "a time that is none": (MANIFEST, ["bad.yaml", "--timeout=-1"], 2, "'-1' is not a time"),
    "broken YAML": ("a: [1\n", ["bad.yaml"], 2, "bad.yaml: not YAML: line 2"),
    "a negative count": (MANIFEST.replace("{name: p", "{replicas: -1, name: p"), ["bad.yaml"], 2, "-1 is negative"),
    "an unknown key": (
        MANIFEST.replace("{name: p", "{replica: 1, name: p"),
        ["bad.yaml"],
        2,
        "did you mean 'replicas'",
    ),
    "a stage's model that only a cluster has": (
        MANIFEST.replace("{name: p", "{model: {source: 'pvc://weights/digits'}, name: p"),
        ["bad.yaml"],
        2,
        "spec.stages[0].model.source: pvc://weights/digits is a volume of a cluster",
    ),
    "two stages of one name": (
        f"{MANIFEST}  - {{name: painter, engine: diffusion}}\n",
        ["bad.yaml"],
        2,
        "spec.stages[1].name: 'painter' is already the name of spec.stages[0]",
    ),
    "a model that only a cluster has": (
        MANIFEST.replace("builtin://digits", "pvc://weights/digits"),
        ["bad.yaml"],
        2,
        "spec.model.source: pvc://weights/digits is a volume of a cluster",
    ),
    "a folder that is not there": (
        MANIFEST.replace("builtin://digits", "/no/such/model"),
        ["bad.yaml"],
        1,
        "spec.model.source: there is no folder /no/such/model on this machine",
    ),
    "a built-in model that is not there": (
        MANIFEST.replace("builtin://digits", "builtin://letters"),
        ["bad.yaml", "--port=0"],
        1,
        "no such built-in model; there are: builtin://digits",
    ),
}


@pytest.mark.parametrize("row", REFUSED)
def test_what_cannot_be_run_is_told_and_leaves_nothing(tmp_path: Path, row: str) -> None:
    manifest, arguments, code, message = REFUSED[row]
    (tmp_path / "bad.yaml").write_text(manifest)
    done = omni(tmp_path, "up", *arguments)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert command_lines(tmp_path) == []


def test_a_busy_port_is_told(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = omni(tmp_path, "up", EXAMPLE, f"--port={port}")
    assert done.returncode == 1
    assert f"omni up: port {port} is in use by another program on this machine" in done.stderr


NOT_DRAWN: dict[str, tuple[list[str], int, str]] = {
    "no pipeline anywhere": (["-o", "a.png"], 1, "no pipeline was found: give --url, set OMNI_URL, run `omni up FILE`"),
    "nobody at the address": (["-o", "a.png", "--url=http://127.0.0.1:9"], 1, "nothing answers at http://127.0.0.1:9"),
    "an address of no form": (["-o", "a.png", "--url=localhost"], 1, "'localhost' is not an address"),
    "a size of text": (["--size=32x32"], 2, "--size is not an option of text; give -o FILE for a picture"),
    "a video several times": (["-o", "a.mp4", "--count=2"], 2, "--count is not an option of videos"),
    "a picture of some length": (["-o", "a.png", "--seconds=2"], 2, "--seconds is not an option of pictures"),
    "a mask of text": (["--mask=a.png"], 2, "--mask is not an option of text; give -o FILE for a picture"),
    "a mask of a video": (["-o", "a.mp4", "--mask=a.png"], 2, "--mask is not an option of videos; leave it out\n"),
    "a mask of nothing": (["-o", "a.png", "--mask=a.png"], 2, "--mask is about a picture to start from; give --image"),
    "a strength of nothing": (
        ["-o", "a.png", "--strength=0.5"],
        2,
        "--strength is about a picture to start from; give",
    ),
    "tokens of a picture": (["-o", "a.png", "--max-tokens=9"], 2, "--max-tokens is not an option of pictures"),
    "no pipeline that writes": ([], 1, "no pipeline was found: give --url"),
    "a folder that is not there": (["-o", "no/a.png"], 2, "-o no/a.png: there is no folder no; make it first"),
    "a file of no such kind": (
        ["-o", "a.gif"],
        2,
        "-o a.gif: expected a name that ends in .png, .jpg, .webp, or in .mp4",
    ),
    "a folder for a file": (["-o", "."], 2, "-o .: is a folder"),
    "no picture at all": (["-o", "a.png", "--count=0"], 2, "--count 0: expected 1 or more"),
}


@pytest.mark.parametrize("row", NOT_DRAWN)
def test_what_cannot_be_drawn_is_told(tmp_path: Path, row: str) -> None:
    arguments, code, message = NOT_DRAWN[row]
    done = omni(tmp_path, "generate", PROMPT, *arguments)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
