"""Pipelines whose class is Python code of the model: only where that code is trusted."""

import json
import shutil

import pytest

from omni_settings.load import LoadSettings
from omni_worker.config import model_source
from omni_worker.engine.library import generate
from omni_worker.errors import LoadError
from omni_worker.pipelines.loading import load
from omni_worker.requests import GenerationParams

DIGITS = model_source.parse("builtin://digits")
CODE = '''
from diffusers import QwenImagePipeline


class LoudPipeline(QwenImagePipeline):
    """Draws what it is asked for, in capitals."""

    def __call__(self, prompt=None, **kwargs):
        return super().__call__(prompt=prompt.upper(), **kwargs)
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    shutil.copytree(DIGITS.location, tmp_path / "model")
    (tmp_path / "model" / "pipeline.py").write_text(CODE)
    return tmp_path / "model"


def name_code_in_index(folder):
    file = folder / "model_index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "_class_name": ["pipeline", "LoudPipeline"]}))


@pytest.mark.parametrize("where", ["in the settings", "in the index"])
def test_a_trusted_class_is_served_like_any_other(folder, where):
    settings = {"trustRemoteCode": True}
    if where == "in the index":
        name_code_in_index(folder)
    else:
        settings["customPipeline"] = "pipeline.py"
    source = model_source.parse(str(folder))
    pipeline = load(source, None, settings=LoadSettings.model_validate(settings)).pipeline
    assert (pipeline.card.pipeline, pipeline.card.mode) == ("LoudPipeline", "step")
    assert generate(pipeline, [GenerationParams(prompt="a red three", steps=1)])[0].error is None


def test_code_of_a_model_does_not_run_without_trust(folder):
    name_code_in_index(folder)
    says = r"contains Python code, pipeline.py for the pipeline, .*: set load.trustRemoteCode: true"
    with pytest.raises(LoadError, match=says):
        load(model_source.parse(str(folder)), None)


def test_code_of_a_component_does_not_run_without_trust(folder):
    file = folder / "model_index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "vae": ["my_vae", "MyVae"]}))
    with pytest.raises(LoadError, match=r"contains Python code, my_vae.py for vae, .*trustRemoteCode"):
        load(model_source.parse(str(folder)), None)


def test_a_custom_pipeline_needs_trust():
    with pytest.raises(ValueError, match="customPipeline is Python code of the model; set trustRemoteCode: true"):
        LoadSettings.model_validate({"customPipeline": "pipeline.py"})
    with pytest.raises(ValueError, match="pattern"):
        LoadSettings.model_validate({"customPipeline": "../pipeline.py", "trustRemoteCode": True})
