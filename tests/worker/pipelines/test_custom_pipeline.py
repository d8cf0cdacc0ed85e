"""Pipelines whose class is Python code of the model: only where that code is trusted."""

import json
import shutil
import sys

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
    for name in [name for name in sys.modules if name.startswith("diffusers_modules.local")]:
        monkeypatch.delitem(sys.modules, name)  # diffusers runs a file again in the module that it made for another
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


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (None, "pipeline.py of .* does not exist; the model's Python files are: other.py"),
        ("def x(:", "pipeline.py of .* cannot be used: SyntaxError: invalid syntax"),
        ("import no_such_library", "pipeline.py of .* cannot be used: .*no_such_library"),
        ("x = 1", "pipeline.py of .* defines no class that inherits from a pipeline of diffusers"),
        (
            f"{CODE}\n\nclass Other(QwenImagePipeline): pass",
            "pipeline.py of .* cannot be used: .*Multiple classes",
        ),
    ],
    ids=["missing", "syntax", "import", "no class", "two classes"],
)
def test_a_file_without_a_pipeline_is_named(folder, code, says):
    file = folder / "pipeline.py"
    file.rename(folder / "other.py")
    if code is not None:
        file.write_text(code)
    settings = LoadSettings.model_validate({"customPipeline": "pipeline.py", "trustRemoteCode": True})
    with pytest.raises(LoadError, match=rf"load.customPipeline \(--custom-pipeline\): {says}"):
        load(model_source.parse(str(folder)), None, settings=settings)


def test_a_custom_pipeline_needs_trust():
    with pytest.raises(ValueError, match="customPipeline is Python code of the model; set trustRemoteCode: true"):
        LoadSettings.model_validate({"customPipeline": "pipeline.py"})
    with pytest.raises(ValueError, match="pattern"):
        LoadSettings.model_validate({"customPipeline": "../pipeline.py", "trustRemoteCode": True})
