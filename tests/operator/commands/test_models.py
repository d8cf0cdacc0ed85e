"""`omni models`: the models that run, or what is known about one that does not."""

import json

import pytest

from omni_operator.client.model_cards import ReplicaModel
from omni_operator.commands.models import print_arguments
from tests.operator.commands.conftest import MODELS, Omni
from tests.operator.commands.stand_in_head import PAINTER, StandInHead, replica, stage


def test_running_models_have_one_line_for_all_equal_replicas(head: StandInHead, omni: Omni) -> None:
    head.stages = [stage(PAINTER, replica("painter-0"), replica("painter-1"))]
    code, text = omni(MODELS, "--url", head.url)
    name, _, line = text.splitlines()
    assert (code, name) == (0, "served as digits")
    assert line.split()[:6] == ["painter", "QwenImagePipeline", "step", "2", "20", "4.0"]
    assert line.endswith("guidance, size (multiples of 8)")


def test_extra_arguments_are_listed_with_kinds_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        {"name": "max_sequence_length", "kinds": ["integer"], "default": 512},
        {"name": "sigmas", "kinds": ["list"], "default": [1.0, 0.5]},
        {"name": "control_image", "kinds": ["image"], "required": True},
    ]
    description = {"stage": "painter", "pipeline": "FluxPipeline", "mode": "step", "card": {"arguments": arguments}}
    model = ReplicaModel.model_validate_json(json.dumps(description))
    assert hash(model), "replicas are counted by it"
    print_arguments(model)
    assert [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[2:]] == [
        ["NAME", "VALUE"],
        ["max_sequence_length", "integer, 512 by default"],
        ["sigmas", "list, [1.0, 0.5] by default"],
        ["control_image", "image, required"],
    ]


def test_running_models_as_json(head: StandInHead, omni: Omni) -> None:
    output = json.loads(omni(MODELS, "--url", head.url, "-o", "json")[1])
    assert output["models"] == ["digits"]
    assert output["stages"][0]["card"]["defaults"]["guidance_scale"] == 4.0
