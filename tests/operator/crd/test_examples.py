"""The examples: the types and the CRD's schema accept each, and each means what its comments say."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from omni_operator.crd import manifest_file
from omni_operator.planning.topology.cluster import cluster_topology
from omni_operator.planning.topology.records import Topology
from tests.operator.crd.test_schema import as_json_schema, root
from tests.operator.planning.topology.layouts import flag

EXAMPLES = Path(__file__).parents[3] / "examples"
FILES = sorted(EXAMPLES.glob("*.yaml"))


def example(name: str) -> Topology:
    return cluster_topology(manifest_file.load(str(EXAMPLES / f"{name}.yaml")))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_types_and_schema_accept_it(file: Path) -> None:
    manifest: dict[str, Any] = yaml.safe_load(file.read_text())
    manifest_file.load(str(file))
    jsonschema.validate(manifest, as_json_schema(root()))


@pytest.mark.parametrize("name", ["digits-thinker", "digits-thinker-text"])
def test_thinker_and_painter_have_pods_of_their_own_and_one_model(name: str) -> None:
    thinker, painter = example(name).replicas
    assert (flag(thinker, "--engine"), flag(painter, "--engine")) == ("autoregressive", "diffusion")
    assert thinker.arguments[1] == painter.arguments[1] == "builtin://digits"
    assert flag(painter, "--no-text-encoder") is None, "the thinker writes text; who reads it encodes it"


def test_a_rewriter_has_its_own_model_and_no_device() -> None:
    rewriter, painter = example("prompt-rewriting").replicas
    assert rewriter.arguments[1] == "hf://Qwen/Qwen3-0.6B"
    assert (rewriter.devices, painter.devices) == (0, 1)


def test_a_rewriter_is_told_what_to_write_and_how_much() -> None:
    first, _ = json.loads(example("prompt-rewriting").stage_config)["stages"]
    assert first["system"].startswith("Rewrite the user's text as one vivid description of a picture.")
    assert first["max_tokens"] == 128


def test_painters_after_an_encoder_load_no_text_encoder() -> None:
    encoder, painter = example("qwen-image-two-stages").replicas
    assert flag(encoder, "--task") == "encode"
    assert flag(encoder, "--no-text-encoder") is None
    assert flag(painter, "--no-text-encoder") == ""
    assert (painter.devices, flag(painter, "--cfg-parallel-size")) == (2, "2")
