"""How requests select LoRA adapters, over every route that makes images or videos, and how adapters are listed."""

import subprocess
import sys

import httpx
import openai
import pytest
from msgspec.structs import replace
from PIL import Image

from omni_worker.model_card import ModelCard
from omni_worker.requests import LoraChoice
from tests.worker.api.heads import head as started
from tests.worker.api.in_process import Head, client_of
from tests.worker.api.sample_images import image_file, solid_image
from tests.worker.pipelines.adapters import write_adapter
from tests.worker.serving import client_of as openai_at
from tests.worker.serving import draw

PAINTER = ModelCard(pipeline="TinyPipeline", mode="step", sized=True, image="one", loras=("ink", "oil"))
BOTH = [{"name": "ink", "scale": 0.5}, {"name": "oil"}]
CHOICES = (LoraChoice("ink", 0.5), LoraChoice("oil"))


@pytest.fixture
def head():
    return Head([PAINTER])


def post(head, path="/v1/images/generations", **body):
    with client_of(head) as client:
        return client.post(path, json={"prompt": "a tree", **body})


def test_every_route_takes_adapters():
    head = Head([PAINTER])
    conversation = {"messages": [{"role": "user", "content": "a tree"}], "modalities": ["image"]}
    with client_of(head) as client:
        answers = [
            client.post("/v1/images/generations", json={"prompt": "a tree", "loras": BOTH}),
            client.post("/v1/chat/completions", json={**conversation, "loras": BOTH}),
            client.post(
                "/v1/images/edits",
                data={"prompt": "a tree", "loras": '[{"name": "ink", "scale": 0.5}, {"name": "oil"}]'},
                files={"image": image_file(solid_image())},
            ),
        ]
    assert [answer.status_code for answer in answers] == [200] * 3, [answer.text for answer in answers]
    assert [params.loras for params in head.received] == [CHOICES] * 3


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("null", 200),
        ("[]", 200),
        ("ink", 400),
        ("5", 400),
        ("[null]", 400),
        ('{"name": "ink"}', 400),
        ("[" * 99999, 400),
        ('[{"name": "ink", "scale": ' + "[" * 100 + "]" * 100 + "}]", 400),
        ('["\\ud800"]', 400),
    ],
)
def test_a_form_has_a_list_as_json(head, text, status):
    with client_of(head) as client:
        files = {"image": image_file(solid_image())}
        answer = client.post("/v1/images/edits", data={"prompt": "a tree", "loras": text}, files=files)
    assert answer.status_code == status, answer.text
    assert status == 200 or answer.json()["error"]["param"].startswith("loras")


@pytest.mark.parametrize(
    ("fields", "choices"),
    [
        ({"model": "ink"}, (LoraChoice("ink"),)),
        ({"model": "ink", "loras": BOTH}, CHOICES),
        ({"model": "ink", "loras": BOTH[1:]}, (LoraChoice("oil"), LoraChoice("ink"))),
        ({"model": "tiny"}, ()),
        ({"loras": []}, ()),
        ({"loras": None}, ()),
        ({"loras": [{"name": "ink", "scale": -1}]}, (LoraChoice("ink", -1.0),)),
    ],
)
def test_an_adapter_can_be_named_as_the_model(head, fields, choices):
    assert post(head, **fields).status_code == 200
    assert head.received[0].loras == choices


@pytest.mark.parametrize(
    ("fields", "status", "param", "words"),
    [
        ({"loras": [{"name": "sand"}]}, 400, "loras", "there is no LoRA 'sand'; this server has 'ink', 'oil'"),
        ({"model": "sand"}, 404, "model", "there is no model 'sand'; this server has 'tiny', 'ink', 'oil'"),
        ({"loras": [{"name": "ink"}, {"name": "ink"}]}, 400, "loras", "given twice"),
        ({"loras": [{"name": "ink", "scale": "much"}]}, 400, "loras.0.scale", "number"),
        ({"loras": [{"name": "ink", "scale": 1e9}]}, 400, "loras.0.scale", "100"),
        ({"loras": [{"name": "ink", "weight": 1}]}, 400, "loras.0.weight", "unknown"),
        ({"loras": [{"scale": 1}]}, 400, "loras.0.name", ""),
        ({"loras": "ink"}, 400, "loras", ""),
        ({"loras": [{"name": str(i)} for i in range(17)]}, 400, "loras", "16"),
    ],
)
def test_a_wrong_selection_is_refused_by_name(head, fields, status, param, words):
    answer = post(head, **fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param), answer.text
    assert words in error["message"]
    assert not head.received


def test_a_server_without_adapters_says_so():
    answer = post(Head([ModelCard(pipeline="TinyPipeline", mode="step", sized=True)]), loras=BOTH)
    assert answer.status_code == 400
    assert "this server has none" in answer.json()["error"]["message"]


def test_adapters_are_listed_as_models(head):
    with client_of(head) as client:
        listed = client.get("/v1/models").json()["data"]
        assert [(one["id"], one.get("parent")) for one in listed] == [("tiny", None), ("ink", "tiny"), ("oil", "tiny")]
        assert client.get("/v1/models/oil").json()["parent"] == "tiny"
        assert client.get("/v1/models/sand").status_code == 404


@pytest.fixture
def keyed(tmp_path):
    file = tmp_path / "keys"
    file.write_text("secret")
    file.chmod(0o600)
    return Head([replace(PAINTER, takes_loras=True)], key_file=str(file))


NEW = {"name": "sand", "source": "hf://org/sand"}
KEY = {"Authorization": "Bearer secret"}


def test_adapters_are_changed_only_by_clients_with_a_key(head, keyed):
    with client_of(head) as client:
        assert client.get("/v1/omni/loras").status_code == 200
        for answer in (client.post("/v1/omni/loras", json=NEW), client.delete("/v1/omni/loras/ink")):
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "api_keys_required")
            assert "--api-key-file" in answer.json()["error"]["message"]
    with client_of(keyed) as client:
        assert client.post("/v1/omni/loras", json=NEW).status_code == 401
        assert client.post("/v1/omni/loras", json={**NEW, "wait": 0}, headers=KEY).status_code == 202


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"name": "a/b"}, "name"),
        ({"name": None}, "name"),
        ({"source": "relative/path"}, "source"),
        ({"source": "hf://org"}, "source"),
        ({"source": "s3://bucket/key"}, "source"),
        ({"source": "/a\nb"}, "source"),
        ({"scale": 1e9}, "scale"),
        ({"wait": -1}, "wait"),
        ({"weightName": "a"}, "weightName"),
    ],
)
def test_a_wrong_adapter_is_refused_by_name(keyed, fields, param):
    with client_of(keyed) as client:
        answer = client.post("/v1/omni/loras", json={**NEW, **fields}, headers=KEY)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


def test_what_is_added_is_listed_and_removed(keyed):
    with client_of(keyed) as client:
        assert client.post("/v1/omni/loras", json={**NEW, "wait": 0}, headers=KEY).json()["state"] == "loading"
        *_, listed = client.get("/v1/omni/loras", headers=KEY).json()["loras"]
        assert (listed["name"], listed["source"], listed["origin"]) == ("sand", "hf://org/sand", "api")
        models = client.get("/v1/models", headers=KEY).json()["data"]
        assert "sand" not in {one["id"] for one in models}, "no replica has it yet"
        assert client.delete("/v1/omni/loras/sand", headers=KEY).json() == {"name": "sand", "deleted": True}
        assert [one["name"] for one in client.get("/v1/omni/loras", headers=KEY).json()["loras"]] == ["ink", "oil"]
        assert client.delete("/v1/omni/loras/sand", headers=KEY).status_code == 404
        gone = client.post("/v1/images/generations", json={"prompt": "a", "loras": [{"name": "sand"}]}, headers=KEY)
    assert (gone.status_code, gone.json()["error"]["param"]) == (400, "loras")
    assert "it was removed" in gone.json()["error"]["message"]


@pytest.mark.processes
def test_the_official_client_uses_an_adapter_as_a_model(tmp_path):
    import diffusers
    import numpy as np

    from omni_worker.config.model_source import parse

    folder = parse("builtin://digits").location
    for seed, name in enumerate(("ink", "oil")):
        pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
        write_adapter(pipe, tmp_path / f"{name}.safetensors", seed=seed)
    oil = f'{{"name": "oil", "source": "{tmp_path}", "weightName": "oil.safetensors", "scale": 0.3}}'
    with started("builtin://digits", "--lora", f"ink={tmp_path}/ink.safetensors", "--lora", oil) as process:
        client = openai_at(process.port)
        assert [model.id for model in client.models.list()] == ["tiny", "ink", "oil"]
        images = {
            name: np.asarray(draw(process.port, seed=1, **({"model": name} if name else {}))[0]).astype(int)
            for name in ("", "ink", "oil")
        }
        half = np.asarray(draw(process.port, seed=1, loras=[{"name": "oil", "scale": 0.3}])[0]).astype(int)
        command = [sys.executable, "-m", "omni_worker.commands.cli", "generate", "a red three on black background"]
        flags = ["--url", f"http://127.0.0.1:{process.port}", "--size=32x32", "--seed=1", "-o", f"{tmp_path}/oil.png"]
        subprocess.run([*command, *flags, "--lora=oil=0.3"], check=True, timeout=300)
        by_command = np.asarray(Image.open(tmp_path / "oil.png")).astype(int)
        with pytest.raises(openai.NotFoundError, match="there is no model 'sand'"):
            client.images.generate(prompt="a tree", model="sand")
        replica = httpx.get(f"http://127.0.0.1:{process.port}/omni/replicas").json()["replicas"][0]
        assert replica["card"]["loras"] == ["ink", "oil"]
    assert np.abs(images["oil"] - half).max() <= 1, "the scale of the command line is the default"
    assert np.abs(by_command - half).max() <= 1
    assert np.abs(images[""] - images["ink"]).max() > 5
    assert np.abs(images["oil"] - images["ink"]).max() > 5
