"""The MODEL argument: which models it accepts."""

import pytest

from omni_worker.config import model_source
from omni_worker.errors import UsageError

from .command_lines import parse


@pytest.mark.parametrize(
    ("model", "says"),
    [
        pytest.param("builtin://letters", "builtin://digits", id="an unknown built-in model"),
        pytest.param("./nope", "no such folder", id="a folder that is not there"),
        pytest.param("hf://nobody", "hf://org/name", id="half a name on the hub"),
        pytest.param("s3://bucket/model", "unknown kind of source 's3'", id="an unknown kind of source"),
        pytest.param(
            "{tmp}",
            "neither model_index.json nor modular_model_index.json nor config.json",
            id="a folder that is no model",
        ),
    ],
)
def test_a_model_that_is_nowhere_is_refused(model, says, tmp_path):
    with pytest.raises(UsageError, match=says):
        parse(model=model.format(tmp=tmp_path))


@pytest.mark.parametrize(
    "flags", [(), ("--headless", "--omni-master-address=head", "--insecure")], ids=["a head", "headless"]
)
def test_an_image_that_nobody_mounted_is_refused_with_the_alternatives(flags):
    with pytest.raises(
        UsageError, match=r"only Kubernetes mounts images, at /model; give the folder .* or hf://org/name"
    ):
        parse(*flags, model="oci://registry/sdxl:1")


def test_a_head_without_replicas_needs_no_image():
    config = parse("--omni-dp-size-local=0", model="oci://registry/sdxl:1")
    assert config.head.models[0].image == "registry/sdxl:1"


def test_a_replica_loads_the_folder_of_the_image(tmp_path, monkeypatch):
    (tmp_path / "model_index.json").write_text("{}")
    monkeypatch.setattr(model_source, "IMAGE_FOLDER", tmp_path)
    model = parse(model="oci://registry/sdxl:1").model
    assert (model.location, model.is_local, model.is_diffusers_folder) == (str(tmp_path), True, True)


def test_the_digest_of_an_image_identifies_the_model_wherever_it_comes_from():
    def digest(reference):
        return model_source.parse(f"oci://{reference}").digest

    one, other = (f"sha256:{character * 64}" for character in "ab")
    assert digest(f"a/m@{one}") == digest(f"mirror:5000/x/m@{one}") == digest(f"a/m:1@{one}")
    assert len({digest(f"a/m@{one}"), digest(f"a/m@{other}"), digest("a/m:1"), digest("a/m:2"), digest("b/m:1")}) == 5
