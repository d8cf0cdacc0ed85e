"""The index file of a model, as `omni models` and `omni serve` read it."""

import json

import pytest

from omni_settings.model_index import Component, parse_model_index

INDEX = {
    "_class_name": "FluxPipeline",
    "_diffusers_version": "0.42.1",
    "_name_or_path": ["a", "b"],
    "transformer": ["diffusers", "FluxTransformer2DModel"],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
}


@pytest.mark.parametrize("content", [INDEX, json.dumps(INDEX), json.dumps(INDEX).encode()])
def test_an_index_names_the_pipeline_and_its_components(content):
    index = parse_model_index(content)
    assert (index.kind, index.code) == ("FluxPipeline", {})
    assert index.components == {"transformer": Component("diffusers", "FluxTransformer2DModel")}


def test_a_pipeline_of_the_model_itself_has_code():
    index = parse_model_index({**INDEX, "_class_name": ["pipeline", "MyPipeline"]})
    assert (index.kind, index.code) == ("MyPipeline", {"the pipeline": "pipeline"})


def place(**entries):
    return {"type_hint": ["diffusers", "AutoencoderKL"], "pretrained_model_name_or_path": None} | entries


def test_components_of_a_modular_pipeline_say_where_they_are():
    index = parse_model_index(
        {
            "_class_name": "Flux3ModularPipeline",
            "_blocks_class_name": "Flux3AutoBlocks",
            "vae": [None, None, place(pretrained_model_name_or_path="org/vae", subfolder="", revision="v1")],
            "old": ["diffusers", "Old", place(repo="org/old", subfolder="old", variant="fp16", type_hint=None)],
            "controlnet": [None, None, place()],
            "broken": [None, None, "org/name"],
            "default_height": 1024,
        }
    )
    assert (index.kind, index.is_modular) == ("Flux3ModularPipeline", True)
    assert index.components == {
        "vae": Component("diffusers", "AutoencoderKL", "org/vae", revision="v1"),
        "old": Component("diffusers", "Old", "org/old", "old", "fp16"),
    }, "what has no place is given later, or not at all"


def test_a_language_model_has_an_architecture():
    assert parse_model_index({"architectures": ["Qwen3ForCausalLM"]}).kind == "Qwen3ForCausalLM"


@pytest.mark.parametrize(
    "content", ["{}", "[]", "3", "{", '{"_class_name": 3}', '{"architectures": []}', '{"architectures": 5}']
)
def test_other_files_are_no_index(content):
    with pytest.raises(ValueError, match=r"names no class|is not a JSON object|Expecting"):
        parse_model_index(content)
