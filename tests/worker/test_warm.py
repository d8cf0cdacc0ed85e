"""Programs of the tests start in every environment, also ones that are no part of an installed package."""

import os
from pathlib import Path

import pytest

from tests.worker import warm

PROGRAM = "benchmarks.routing"


@pytest.mark.parametrize("changes", [{}, {warm.SET_BY_TORCH: "/var/tmp/torch"}, {"HF_HOME": "/var/tmp/models"}])
def test_a_program_runs_in_the_environment_that_it_is_given(
    changes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    ended = warm.run(PROGRAM, ["--help"], os.environ)
    assert ended.returncode == 0, ended.stderr
    assert "--quick" in ended.stdout
