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


def test_a_language_model_has_an_architecture():
    assert parse_model_index({"architectures": ["Qwen3ForCausalLM"]}).kind == "Qwen3ForCausalLM"


@pytest.mark.parametrize(
    "content", ["{}", "[]", "3", "{", '{"_class_name": 3}', '{"architectures": []}', '{"architectures": 5}']
)
def test_other_files_are_no_index(content):
    with pytest.raises(ValueError, match=r"names no class|is not a JSON object|Expecting"):
        parse_model_index(content)
