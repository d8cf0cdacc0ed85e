"""Runs what the documentation says to type on a laptop: commands in a shell and Python programs, with the pipelines
that they are about. tests/kubernetes runs the commands for a cluster.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from omni_worker.models import DIGITS
from omni_worker.models.digits_reader import read
from omni_worker.models.digits_recipe.captions import DIGITS as WORDS
from tests.docs.test_docs import EXAMPLES, PAGES, PROJECT, blocks, commands, name
from tests.hub import Hub
from tests.operator.commands.omni_processes import OMNI, OmniUp, run_omni
from tests.worker.api.audio.sounds import save_sound
from tests.worker.api.heads import digits_as, head, save_specimen

pytestmark = pytest.mark.processes
CLIENT_COMMANDS = ("generate", "status", "top", "models", "bench", "completion")
NAMED = re.compile(r"omni \w+ [a-z][a-z0-9-]*(?= |$)")
"""Commands that select a pipeline of a cluster by its name."""
HERE = "http://127.0.0.1:8000"
FIGURES = {"three.png": (3, "red"), "seven.png": (7, "green")}
MODELS = {
    "stabilityai/stable-diffusion-xl-base-1.0": "StableDiffusionXLPipeline",
    "Qwen/Qwen-Image": "QwenImagePipeline",
}
TYPED = list(
    dict.fromkeys(
        command
        for where, command in commands()
        if (found := re.match(r'(?:eval "\$\()?omni (\w+)', command))
        and found[1] in CLIENT_COMMANDS
        and not NAMED.match(command)
        and where not in map(name, EXAMPLES)
    )
)
# Examples with commands at their top that need no download, and the digit and colour of their image.
STARTED = {"examples/digits-thinker.yaml": ("seven", "blue"), "examples/digits-thinker-text.yaml": ("seven", "blue")}
PYTHON = [
    pytest.param(code, id=f"{name(page)}, block {number}")
    for page in PAGES
    for number, code in enumerate(blocks(page, "python"), 1)
]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OmniUp]:
    """The first example, served."""
    with OmniUp(tmp_path_factory.mktemp("digits"), str(PROJECT / "examples/digits.yaml"), "--port=0") as up:
        yield up


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OmniUp]:
    """The example in the page about stages, served."""
    file = str(PROJECT / "examples/digits-thinker-text.yaml")
    with OmniUp(tmp_path_factory.mktemp("thinker"), file, "--port=0") as up:
        yield up


@pytest.fixture(scope="module")
def video_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a pipeline that generates videos."""
    model = save_specimen(
        "WanPipeline", tmp_path_factory.mktemp("wan"), width=32, height=32, num_frames=5, num_inference_steps=2
    )
    with head(model) as process:
        yield f"http://127.0.0.1:{process.port}"


@pytest.fixture(scope="module")
def sound_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a pipeline that makes sound of up to ten seconds."""
    model = save_sound("StableAudioPipeline", tmp_path_factory.mktemp("sound"), rate=800, num_inference_steps=2)
    with head(model, "--served-model-name", "stable-audio") as process:
        yield f"http://127.0.0.1:{process.port}"


@pytest.fixture(scope="module")
def edit_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a pipeline that starts from an image."""
    with head(digits_as("QwenImageImg2ImgPipeline", tmp_path_factory.mktemp("img2img"))) as process:
        yield f"http://127.0.0.1:{process.port}"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub with the index files of the models in the documentation."""
    folder = tmp_path_factory.mktemp("hub")
    for model, pipeline in MODELS.items():
        (folder / model).mkdir(parents=True)
        (folder / model / "model_index.json").write_text(json.dumps({"_class_name": pipeline}))
    server = Hub({model: folder / model for model in MODELS})
    yield server
    server.close()


def require_right_images(folder: Path) -> None:
    """Check that each image shows what its prompt says."""
    for file, expected in FIGURES.items():
        if (folder / file).exists():
            reading = read(Image.open(folder / file))
            assert (reading.digit, reading.colour) == expected, file


@pytest.mark.parametrize("command", TYPED)
def test_a_documented_command_works(
    command: str, digits: OmniUp, hub: Hub, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    environment = {
        "PATH": f"{Path(OMNI).parent}:{os.environ['PATH']}", "HOME": str(tmp_path), "HF_ENDPOINT": hub.url,
        "XDG_STATE_HOME": str(digits.folder), "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }  # fmt: skip
    if ".mp4" in command:
        environment["OMNI_URL"] = request.getfixturevalue("video_pipeline")
    if ".wav" in command:
        environment["OMNI_URL"] = request.getfixturevalue("sound_pipeline")
    for picture in re.findall(r"--image (\S+)", command):
        environment["OMNI_URL"] = request.getfixturevalue("edit_pipeline")
        Image.new("RGB", (32, 32), "blue").save(tmp_path / picture)
    result = subprocess.run(
        ["bash", "-c", command.replace(HERE, digits.url)],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    if output := re.search(r"-o (\S+\.\w+)", command):
        assert (tmp_path / output[1]).stat().st_size > 100
        require_right_images(tmp_path)
    elif not command.startswith("eval"):
        assert result.stdout.strip()


@pytest.mark.parametrize("file", STARTED)
def test_the_commands_at_the_top_of_an_example_work(file: str, tmp_path: Path) -> None:
    up, *others = [command for where, command in commands() if where == file and not NAMED.match(command)]
    digit, colour = STARTED[file]
    with OmniUp(tmp_path, *up.replace(file, str(PROJECT / file)).split()[2:], "--port=0"):
        for command in others:
            result = run_omni(tmp_path, *shlex.split(command)[1:])
            assert result.returncode == 0, result.stderr
            if "-o" in command:
                reading = read(Image.open(tmp_path / command.split()[-1]))
                assert (WORDS[reading.digit], reading.colour) == (digit, colour)
            else:
                assert f"a {colour} {digit}" in result.stdout


def test_the_documented_api_key_command_works(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a-key-of-many-letters\n")
    (export,) = (command for _, command in commands() if command.startswith("export OMNI_API_KEY="))
    ask = next(command for where, command in commands() if where == "docs/security.md" and f"--url {HERE}" in command)
    with head("builtin://digits", "--api-key-file", str(tmp_path / "keys")) as process:
        url = f"http://127.0.0.1:{process.port}"
        words = shlex.split(ask.replace(HERE, url))[1:]
        refused, result = (
            run_omni(tmp_path, *words, environment={"OMNI_API_KEY": key})
            for key in (export.partition("=")[2], "a-key-of-many-letters")
        )
    assert "OMNI_API_KEY" in refused.stderr
    assert result.returncode == 0, result.stderr
    require_right_images(tmp_path)


def test_the_documented_manifest_of_an_own_pipeline_works(tmp_path: Path) -> None:
    (manifest,) = (block for block in blocks(PROJECT / "docs/own-pipeline.md", "yaml") if "name: mine" in block)
    (tmp_path / "mine.yaml").write_text(manifest.replace("/home/me/my-pipeline", str(DIGITS)))
    with OmniUp(tmp_path, str(tmp_path / "mine.yaml"), "--port=0"):
        assert "mine" in run_omni(tmp_path, "status").stdout


@pytest.mark.parametrize("code", PYTHON)
def test_a_documented_python_program_works(code: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if "my-pipeline" in code:
        shutil.copytree(DIGITS, tmp_path / "my-pipeline")
    elif "client.audio" in code:
        code = code.replace(HERE, request.getfixturevalue("sound_pipeline"))
    elif "client.videos" in code:
        code = code.replace(HERE, request.getfixturevalue("video_pipeline"))
    else:
        pipeline = "thinker" if "digits-thinker-text" in code else "digits"
        code = code.replace(HERE, request.getfixturevalue(pipeline).url)
    assert HERE not in code
    (tmp_path / "program.py").write_text(code)
    result = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    require_right_images(tmp_path)
    if "my-pipeline" in code:
        assert re.findall(r"steps: off by \de-0[67]", result.stdout) == re.findall(r"steps: .*", result.stdout), (
            result.stdout
        )
        assert "'keys_alone': 0" in result.stdout
