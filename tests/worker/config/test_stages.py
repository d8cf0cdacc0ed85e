"""The file of --stage-config."""

import json

import pytest

from omni_worker.errors import UsageError

from .command_lines import parse


def test_the_stage_config_names_the_stages(tmp_path):
    file = tmp_path / "stages.yaml"
    file.write_text(json.dumps({"stages": [{"id": 0, "name": "thinker"}, {"id": 1, "name": "painter"}]}))
    assert [stage.name for stage in parse("--stage-config", str(file)).head.stages] == ["thinker", "painter"]


@pytest.mark.parametrize("text", ["stages: 3", "nothing: here", "stages: [{id: 0}]", "stages: []", "a: [b"])
def test_a_stage_config_of_another_form_is_refused(tmp_path, text):
    file = tmp_path / "stages.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match="--stage-config"):
        parse("--stage-config", str(file))
