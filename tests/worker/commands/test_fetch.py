"""Fetching models: what is taken from a hub is what a replica then finds without one."""

import os
import shutil
import subprocess
import sys

import pytest

from omni_worker.config.model_source import BUILTIN_MODELS
from tests.worker.hub import hub

pytestmark = pytest.mark.processes

LOAD = """
import transformers
from omni_worker.config.model_source import parse
from omni_worker.pipelines.loading import load
load(parse("hf://org/painter", "main"), None)
transformers.AutoModelForCausalLM.from_pretrained("org/thinker", revision="main")
transformers.AutoTokenizer.from_pretrained("org/thinker", revision="main")
"""


@pytest.fixture
def repositories(tmp_path):
    """A pipeline with weights in it that nothing loads, and a language model."""
    painter, thinker = tmp_path / "painter", tmp_path / "thinker"
    shutil.copytree(BUILTIN_MODELS / "digits", painter, ignore=shutil.ignore_patterns("thinker"))
    shutil.copytree(BUILTIN_MODELS / "digits/thinker", thinker)
    (painter / "all-in-one.safetensors").write_bytes(b"not for us")
    (thinker / "pytorch_model.bin").write_bytes(b"not for us")
    return {"org/painter": painter, "org/thinker": thinker}


def run(command, home, endpoint, offline=False):
    environment = {**os.environ, "HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": str(int(offline))}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment)


def test_what_is_fetched_is_loaded_without_the_hub_and_is_fetched_once(repositories, tmp_path):
    models = ["hf://org/painter@main", "hf://org/thinker@main"]
    with hub(repositories) as (endpoint, downloaded):
        fetched = run(["-m", "omni_worker.commands.fetch", *models], tmp_path / "home", endpoint)
        assert fetched.returncode == 0, fetched.stderr
        assert {name.split("/")[1] for name in downloaded} == {"painter", "thinker"}
        assert not [name for name in downloaded if name.endswith(("all-in-one.safetensors", ".bin"))]
        before = len(downloaded)
        assert run(["-m", "omni_worker.commands.fetch", *models], tmp_path / "home", endpoint).returncode == 0
        assert len(downloaded) == before, "what is there is not downloaded again"
    loaded = run(["-c", LOAD], tmp_path / "home", endpoint, offline=True)
    assert loaded.returncode == 0, loaded.stderr


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("hf://org/nothing", "hf://org/nothing cannot be downloaded: "),
        ("builtin://digits", "it is on this machine already; give one of the hub, like hf://org/name"),
    ],
)
def test_what_cannot_be_fetched_is_named(repositories, tmp_path, model, says):
    with hub(repositories) as (endpoint, _):
        refused = run(["-m", "omni_worker.commands.fetch", model], tmp_path / "home", endpoint)
    assert refused.returncode == 1
    assert says in refused.stderr
    assert "Traceback" not in refused.stderr
