"""`omni models`: what runs, and what is known of models that do not run yet."""

import json
from pathlib import Path

import pytest

from omni_operator.commands.known import UnknownModel
from tests.operator.commands.conftest import Omni
from tests.operator.commands.stand_in_head import PAINTER, StandInHead, replica, stage

MODELS = "omni_operator.commands.models"


def test_what_runs_is_a_line_a_kind_of_replica(head: StandInHead, omni: Omni) -> None:
    head.stages = [stage(PAINTER, replica("painter-0"), replica("painter-1"))]
    code, text = omni(MODELS, "--url", head.url)
    name, _, line = text.splitlines()
    assert (code, name) == (0, "served as digits")
    assert line.split()[:6] == ["painter", "QwenImagePipeline", "step", "2", "20", "4.0"]
    assert line.endswith("guidance, size (multiples of 8)")


def test_what_runs_as_json(head: StandInHead, omni: Omni) -> None:
    told = json.loads(omni(MODELS, "--url", head.url, "-o", "json")[1])
    assert told["models"] == ["digits"]
    assert told["stages"][0]["card"]["defaults"]["guidance_scale"] == 4.0


def test_a_class_of_diffusers(omni: Omni) -> None:
    told = json.loads(omni(MODELS, "FluxPipeline", "-o", "json")[1])
    assert (told["steps"], told["task"], told["shares"]) == (True, "text-to-image", {"transformer": True})
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
    told = json.loads(omni(MODELS, str(tmp_path), "-o", "json")[1])
    assert (told["pipeline"], told["steps"]) == (expected, True)


def test_what_is_no_model(tmp_path: Path, omni: Omni) -> None:
    with pytest.raises(UnknownModel, match="is not a model; give a class"):
        omni(MODELS, "seven")
    with pytest.raises(UnknownModel, match=r"neither model_index.json nor config.json names a class"):
        omni(MODELS, str(tmp_path))


def test_a_class_that_nobody_tried(omni: Omni) -> None:
    assert "not tried" in omni(MODELS, "NewPipeline")[1]
