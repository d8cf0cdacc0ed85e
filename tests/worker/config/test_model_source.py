"""The MODEL argument: which models it accepts."""

import pytest

from omni_worker.errors import UsageError

from .command_lines import parse


@pytest.mark.parametrize(
    ("model", "says"),
    [
        pytest.param("builtin://letters", "builtin://digits", id="an unknown built-in model"),
        pytest.param("./nope", "no such folder", id="a folder that is not there"),
        pytest.param("hf://nobody", "hf://org/name", id="half a name on the hub"),
        pytest.param("s3://bucket/model", "unknown kind of source 's3'", id="an unknown kind of source"),
        pytest.param("{tmp}", "neither model_index.json nor config.json", id="a folder that is no model"),
    ],
)
def test_a_model_that_is_nowhere_is_refused(model, says, tmp_path):
    with pytest.raises(UsageError, match=says):
        parse(model=model.format(tmp=tmp_path))
