"""What `omni models MODEL` knows about a class, a folder, or a model on the hub."""

import json
from pathlib import Path

import pytest

from omni_operator.commands.model_survey import UnknownModel
from tests.hub import Hub
from tests.operator.commands.conftest import MODELS, Omni


def test_a_class_of_diffusers(omni: Omni) -> None:
    output = json.loads(omni(MODELS, "FluxPipeline", "-o", "json")[1])
    assert (output["steps"], output["task"], output["shares"]) == (True, "text-to-image", {"transformer": True})
    assert "(transformer → step) × steps" in omni(MODELS, "FluxPipeline")[1]


@pytest.mark.parametrize(
    ("index", "content", "expected"),
    [
        ("model_index.json", {"_class_name": "QwenImagePipeline"}, "QwenImagePipeline"),
        ("config.json", {"architectures": ["Qwen3ForCausalLM"]}, "Qwen3ForCausalLM"),
    ],
)
def test_a_folder(tmp_path: Path, omni: Omni, index: str, content: dict, expected: str) -> None:
    (tmp_path / index).write_text(json.dumps(content))
    output = json.loads(omni(MODELS, str(tmp_path), "-o", "json")[1])
    assert (output["pipeline"], output["steps"]) == (expected, True)


def test_something_that_is_no_model_is_rejected(tmp_path: Path, omni: Omni) -> None:
    with pytest.raises(UnknownModel, match="is not a model; give a class"):
        omni(MODELS, "seven")
    with pytest.raises(UnknownModel, match=r"neither model_index.json nor config.json names a class"):
        omni(MODELS, str(tmp_path))


def test_a_class_that_was_not_tried(omni: Omni) -> None:
    assert "not tried" in omni(MODELS, "NewPipeline")[1]
    output = " ".join(omni(MODELS, "FluxxPipeline")[1].split())
    assert "not tried; tried were FluxPipeline" in output


@pytest.mark.parametrize(("name", "expected"), [("painter", "FluxPipeline"), ("writer", "Qwen3ForCausalLM")])
def test_a_model_on_the_hub_is_recognized_by_its_index_alone(hub: Hub, omni: Omni, name: str, expected: str) -> None:
    output = json.loads(omni(MODELS, f"hf://org/{name}", "-o", "json")[1])
    assert (output["model"], output["pipeline"], output["steps"]) == (f"hf://org/{name}", expected, True)
    assert all(path.endswith(("/model_index.json", "/config.json")) for path in hub.requests)


@pytest.mark.parametrize(("name", "says"), [("org/weights", "names a class"), ("org", "is named hf://org/name")])
def test_a_repository_without_a_model_is_rejected(hub: Hub, omni: Omni, name: str, says: str) -> None:
    with pytest.raises(UnknownModel, match=f"^hf://{name}: .*{says}"):
        omni(MODELS, f"hf://{name}")
