"""Fixtures: run `omni COMMAND …` in this process, a stand-in for a head, a model hub, and a real `omni up`."""

import json
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from omni_worker.commands.cli import CommandParser
from tests.hub import Hub
from tests.operator.commands.omni_processes import EXAMPLES, OmniUp
from tests.operator.commands.stand_in_head import StandInHead

MODELS = "omni_operator.commands.models"
MODULAR = {
    "_class_name": "Flux3ModularPipeline",
    "transformer": [None, None, {"type_hint": ["diffusers", "Flux3Transformer2DModel"], "subfolder": "transformer",
                                 "pretrained_model_name_or_path": "org/modular"}],
    "vae": [None, None, {"type_hint": ["diffusers", "AutoencoderKLFlux2"], "subfolder": "vae",
                         "pretrained_model_name_or_path": "org/painter"}],
}  # fmt: skip
"""The index of a modular pipeline with a component of another repository."""
Omni = Callable[..., tuple[int, str]]


@pytest.fixture
def head() -> Iterator[StandInHead]:
    server = StandInHead()
    yield server
    server.close()


@pytest.fixture
def omni(capsys: pytest.CaptureFixture[str]) -> Omni:
    """Runs the command in a module, and returns its exit code and what it printed."""

    def run(module: str, *argv: str) -> tuple[int, str]:
        command: ModuleType = import_module(module)
        parser = CommandParser()
        command.configure(parser)
        code = command.run(parser.parse_intermixed_args(argv))
        return code, capsys.readouterr().out

    return run


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with a public model of each kind, a gated model, and a repository without a model index."""
    kinds = {
        "org/painter": ("model_index.json", {"_class_name": "FluxPipeline"}),
        "org/writer": ("config.json", {"architectures": ["Qwen3ForCausalLM"]}),
        "org/gated": ("model_index.json", {"_class_name": "StableDiffusion3Pipeline"}),
        "org/modular": ("modular_model_index.json", MODULAR),
        "org/weights": ("README.md", {}),
    }
    for name, (file, content) in kinds.items():
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / file).write_text(json.dumps(content))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for name in ("HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    server = Hub({name: tmp_path / name for name in kinds}, gated=("org/gated",))
    monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
    yield server
    server.close()


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OmniUp]:
    """The first example, served."""
    up = OmniUp(tmp_path_factory.mktemp("up"), str(EXAMPLES / "digits.yaml"), "--port=0")
    try:
        line = up.first_line()
        assert re.fullmatch(r"API: http://127\.0\.0\.1:\d+\n", line)
        up.url = line.split()[1]
        yield up
    finally:
        up.close()
