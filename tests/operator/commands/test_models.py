"""`omni models`: the models that run, or what is known about one that does not."""

import json

from tests.operator.commands.conftest import MODELS, Omni
from tests.operator.commands.stand_in_head import PAINTER, StandInHead, replica, stage


def test_running_models_have_one_line_for_all_equal_replicas(head: StandInHead, omni: Omni) -> None:
    head.stages = [stage(PAINTER, replica("painter-0"), replica("painter-1"))]
    code, text = omni(MODELS, "--url", head.url)
    name, _, line = text.splitlines()
    assert (code, name) == (0, "served as digits")
    assert line.split()[:6] == ["painter", "QwenImagePipeline", "step", "2", "20", "4.0"]
    assert line.endswith("guidance, size (multiples of 8)")


def test_running_models_as_json(head: StandInHead, omni: Omni) -> None:
    output = json.loads(omni(MODELS, "--url", head.url, "-o", "json")[1])
    assert output["models"] == ["digits"]
    assert output["stages"][0]["card"]["defaults"]["guidance_scale"] == 4.0
