"""The prefetch of models: what it downloads from a hub is all that a replica needs to load them without one."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from omni_worker.config.model_source import BUILTIN_MODELS
from tests.hub import Hub
from tests.worker.pipelines.survey import specimen
from tests.worker.pipelines.zoo import modular as zoo

pytestmark = pytest.mark.processes

INDEX = "modular_model_index.json"
LOAD = """
import transformers
from omni_worker.config.model_source import parse
from omni_worker.pipelines.loading import load
load(parse("hf://org/painter", "main"), None)
load(parse("hf://org/modular", "main"), None)
transformers.AutoModelForCausalLM.from_pretrained("org/thinker", revision="main")
transformers.AutoTokenizer.from_pretrained("org/thinker", revision="main")
"""


@pytest.fixture
def hub(tmp_path):
    """A hub with a pipeline, a language model and a modular pipeline, each with weights that nothing loads.

    A component of the modular one is in another repository.
    """
    painter, thinker, modular = tmp_path / "painter", tmp_path / "thinker", tmp_path / "modular"
    shutil.copytree(BUILTIN_MODELS / "digits", painter, ignore=shutil.ignore_patterns("thinker"))
    shutil.copytree(BUILTIN_MODELS / "digits/thinker", thinker)
    (painter / "all-in-one.safetensors").write_bytes(b"not for us")
    (thinker / "pytorch_model.bin").write_bytes(b"not for us")
    torch.manual_seed(0)
    zoo.save_for_hub(specimen(zoo, "ZImageModularPipeline").build(), modular, "org/modular")
    (modular / "transformer" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"not for us")
    (modular / "vae").rename(tmp_path / "vae")
    content = json.loads((modular / INDEX).read_text())
    content["vae"][2] |= {"pretrained_model_name_or_path": "org/vae", "subfolder": ""}
    (modular / INDEX).write_text(json.dumps(content))
    hub = Hub({"org/painter": painter, "org/thinker": thinker, "org/modular": modular, "org/vae": tmp_path / "vae"})
    yield hub
    hub.close()


def run(command, home, endpoint, offline=False):
    environment = {**os.environ, "HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": str(int(offline))}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment)


def test_what_is_fetched_is_loaded_without_the_hub_and_is_fetched_once(hub, tmp_path):
    models = ["hf://org/painter@main", "hf://org/thinker@main", "hf://org/modular@main"]
    fetched = run(["-m", "omni_worker.commands.cli", "fetch", *models], tmp_path / "home", hub.url)
    assert fetched.returncode == 0, fetched.stderr
    assert {name.split("/")[1] for name in hub.downloads} == {"painter", "thinker", "modular", "vae"}
    assert not [
        name for name in hub.downloads if name.endswith(("all-in-one.safetensors", ".bin", ".fp16.safetensors"))
    ]
    before = len(hub.downloads)
    assert run(["-m", "omni_worker.commands.cli", "fetch", *models], tmp_path / "home", hub.url).returncode == 0
    assert len(hub.downloads) == before, "what is there is not downloaded again"
    requests = len(hub.requests)
    loaded = run(["-c", LOAD], tmp_path / "home", hub.url, offline=True)
    assert loaded.returncode == 0, loaded.stderr
    assert len(hub.requests) == requests, "nothing is asked of the hub"


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("hf://org/nothing", "hf://org/nothing cannot be downloaded: "),
        ("builtin://digits", "it is on this machine already; give one of the hub, like hf://org/name"),
    ],
)
def test_what_cannot_be_fetched_is_named(hub, tmp_path, model, says):
    refused = run(["-m", "omni_worker.commands.cli", "fetch", model], tmp_path / "home", hub.url)
    assert refused.returncode == 1
    assert says in refused.stderr
    assert "Traceback" not in refused.stderr
