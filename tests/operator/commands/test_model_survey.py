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
        ("modular_model_index.json", {"_class_name": "Flux3ModularPipeline"}, "Flux3ModularPipeline"),
        ("config.json", {"architectures": ["Qwen3ForCausalLM"]}, "Qwen3ForCausalLM"),
    ],
)
def test_a_folder(tmp_path: Path, omni: Omni, index: str, content: dict, expected: str) -> None:
    (tmp_path / index).write_text(json.dumps(content))
    output = json.loads(omni(MODELS, str(tmp_path), "-o", "json")[1])
    assert (output["pipeline"], output["steps"]) == (expected, True)


def test_something_that_is_no_model_is_rejected(tmp_path: Path, omni: Omni) -> None:
    with pytest.raises(UnknownModel, match="is not a model; give a class"):
        omni(MODELS, "Seven")
    with pytest.raises(
        UnknownModel, match=r"neither model_index.json nor modular_model_index.json nor config.json names a class"
    ):
        omni(MODELS, str(tmp_path))


def test_a_class_that_was_not_tried(omni: Omni) -> None:
    assert "not tried" in omni(MODELS, "NewPipeline")[1]
    output = " ".join(omni(MODELS, "FluxxPipeline")[1].split())
    assert "not tried; tried were FluxPipeline" in output


@pytest.mark.parametrize(("name", "expected"), [("painter", "FluxPipeline"), ("writer", "Qwen3ForCausalLM")])
def test_a_model_on_the_hub_is_recognized_by_its_index_alone(hub: Hub, omni: Omni, name: str, expected: str) -> None:
    output = json.loads(omni(MODELS, f"hf://org/{name}", "-o", "json")[1])
    assert (output["model"], output["pipeline"], output["steps"]) == (f"hf://org/{name}", expected, True)
    assert all("/tree/" in path or path.endswith(("model_index.json", "/config.json")) for path in hub.requests)


def write_weights(file: Path, dtype: str, size: int) -> None:
    header = json.dumps({"w": {"dtype": dtype, "shape": [size], "data_offsets": [0, size]}}).encode()
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))


def test_a_model_on_the_hub_needs_no_prefix_unless_a_folder_has_its_name(
    hub: Hub, omni: Omni, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "org" / "weights")
    assert json.loads(omni(MODELS, "org/painter", "-o", "json")[1])["model"] == "hf://org/painter"
    monkeypatch.chdir(tmp_path)
    assert json.loads(omni(MODELS, "org/painter", "-o", "json")[1])["model"] == "org/painter"


@pytest.mark.parametrize("where", ["on the hub", "in a folder"])
def test_the_weights_are_counted_by_component(hub: Hub, omni: Omni, where: str) -> None:
    folder = hub.models["org/painter"]
    write_weights(folder / "transformer" / "diffusion_pytorch_model-00001-of-00002.safetensors", "F32", 4000)
    write_weights(folder / "transformer" / "diffusion_pytorch_model-00002-of-00002.safetensors", "F32", 4000)
    write_weights(folder / "vae" / "diffusion_pytorch_model.safetensors", "BF16", 1000)
    write_weights(folder / "vae" / "diffusion_pytorch_model.fp16.safetensors", "F16", 1000)
    write_weights(folder / "flux1-dev.safetensors", "BF16", 1000)
    name = "hf://org/painter" if where == "on the hub" else str(folder)
    weights = json.loads(omni(MODELS, name, "-o", "json")[1])["weights"]
    assert weights == {"transformer": pytest.approx(4000, rel=0.05), "vae": pytest.approx(1000, rel=0.1)}
    assert "0.0 GB in bfloat16 (transformer 0.0, vae 0.0); 0.0 GB with load.offload: model" in omni(MODELS, name)[1]


@pytest.mark.parametrize(("name", "says"), [("org/weights", "names a class"), ("org", "is named hf://org/name")])
def test_a_repository_without_a_model_is_rejected(hub: Hub, omni: Omni, name: str, says: str) -> None:
    with pytest.raises(UnknownModel, match=f"^hf://{name}: .*{says}"):
        omni(MODELS, f"hf://{name}")


def test_components_of_other_repositories_count(hub: Hub, omni: Omni) -> None:
    folder = hub.models["org/modular"]
    write_weights(folder / "transformer" / "diffusion_pytorch_model.safetensors", "BF16", 4000)
    write_weights(hub.models["org/painter"] / "vae" / "diffusion_pytorch_model.safetensors", "F32", 4000)
    output = json.loads(omni(MODELS, "hf://org/modular", "-o", "json")[1])
    assert output["pipeline"] == "Flux3ModularPipeline"
    assert output["weights"] == {"transformer": pytest.approx(4000, rel=0.05), "vae": pytest.approx(2000, rel=0.1)}
