"""What these tests share: a way to run `omni COMMAND …` in this process, and a stand-in for a head."""

from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType

import pytest

from omni_worker.commands.cli import CommandParser
from tests.operator.commands.stand_in_head import StandInHead

Omni = Callable[..., tuple[int, str]]


@pytest.fixture
def head() -> Iterator[StandInHead]:
    server = StandInHead()
    yield server
    server.close()


@pytest.fixture
def omni(capsys: pytest.CaptureFixture[str]) -> Omni:
    """Runs a command; gives its exit code and what it printed."""

    def run(module: str, *argv: str) -> tuple[int, str]:
        command: ModuleType = import_module(module)
        parser = CommandParser()
        command.configure(parser)
        code = command.run(parser.parse_args(argv))
        return code, capsys.readouterr().out

    return run
