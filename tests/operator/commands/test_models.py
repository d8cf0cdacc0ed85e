"""`omni models`: what runs, and what is known of models that do not run yet."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from omni_operator.commands.hub_files import HubError
from omni_operator.commands.model_survey import UnknownModel
from tests.hub import Hub
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
    told = " ".join(omni(MODELS, "FluxxPipeline")[1].split())
    assert "not tried; tried were FluxPipeline" in told


# ---- models of the hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """One with a public model of each kind, a gated one, and one that is no model of ours."""
    kinds = {
        "org/painter": ("model_index.json", {"_class_name": "FluxPipeline"}),
        "org/writer": ("config.json", {"architectures": ["Qwen3ForCausalLM"]}),
        "org/gated": ("model_index.json", {"_class_name": "StableDiffusion3Pipeline"}),
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


@pytest.mark.parametrize(("name", "expected"), [("painter", "FluxPipeline"), ("writer", "Qwen3ForCausalLM")])
def test_a_model_of_the_hub_is_known_by_its_index_alone(hub: Hub, omni: Omni, name: str, expected: str) -> None:
    told = json.loads(omni(MODELS, f"hf://org/{name}", "-o", "json")[1])
    assert (told["model"], told["pipeline"], told["steps"]) == (f"hf://org/{name}", expected, True)
    assert all(path.endswith(("/model_index.json", "/config.json")) for path in hub.requests)


@pytest.mark.parametrize("kept", ["HF_TOKEN", "a file"])
def test_a_gated_model_is_known_to_whoever_has_a_token(
    hub: Hub, omni: Omni, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str
) -> None:
    with pytest.raises(
        HubError, match=r"org/gated: it is gated; accept its terms at http.*/org/gated, and set HF_TOKEN"
    ):
        omni(MODELS, "hf://org/gated")
    if kept == "HF_TOKEN":
        monkeypatch.setenv("HF_TOKEN", hub.token)
    else:
        (tmp_path / "token").write_text(f"{hub.token}\n")
    assert "StableDiffusion3Pipeline" in omni(MODELS, "hf://org/gated")[1]


@pytest.mark.parametrize(
    ("name", "token", "says"),
    [
        pytest.param("org/none", "", "has no public model of this name; check the spelling, or set HF_TOKEN", id="401"),
        pytest.param("org/none", "hf_right", "has no model of this name that the token may read", id="404"),
        pytest.param("org/painter", "hf_wrong", "does not accept the token; check HF_TOKEN", id="a wrong token"),
        pytest.param("org/gated", "hf_other", "the account of the token has no access yet; ask for it at", id="403"),
        pytest.param("org/busy", "", "answers 503; try again later", id="503"),
    ],
)
def test_what_the_hub_refuses_is_told_with_what_to_do(
    hub: Hub, omni: Omni, monkeypatch: pytest.MonkeyPatch, name: str, token: str, says: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubError, match=f"^{name}: .*{says}"):
        omni(MODELS, f"hf://{name}")


@pytest.mark.parametrize(("name", "says"), [("org/weights", "names a class"), ("org", "is named hf://org/name")])
def test_what_is_on_the_hub_and_no_model(hub: Hub, omni: Omni, name: str, says: str) -> None:
    with pytest.raises(UnknownModel, match=f"^hf://{name}: .*{says}"):
        omni(MODELS, f"hf://{name}")


def test_a_hub_that_cannot_be_asked(hub: Hub, omni: Omni, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError, match="is not asked while HF_HUB_OFFLINE is set; unset it, or give a folder"):
        omni(MODELS, "hf://org/painter")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"http://127.0.0.1:9 could not be asked \(.*\); check the connection"):
        omni(MODELS, "hf://org/painter")
