"""The parser of `omni`: every part of a command's parser knows the flag types by name."""

import argparse

import pytest

from omni_worker.commands.cli import CommandParser


def test_named_flag_types_work_in_groups_and_sub_parsers(capsys: pytest.CaptureFixture[str]) -> None:
    parser = CommandParser(prog="omni")
    command: argparse.ArgumentParser = parser.add_subparsers().add_parser("wait")
    command.add_mutually_exclusive_group().add_argument("--rate", type="positive")
    command.add_argument_group("times").add_argument("--timeout", type="seconds")
    assert vars(parser.parse_args(["wait", "--rate=0.5", "--timeout=2"])) == {"rate": 0.5, "timeout": 2.0}
    with pytest.raises(SystemExit):
        parser.parse_args(["wait", "--timeout=0"])
    assert "argument --timeout: '0' is not a time; give seconds, more than 0" in capsys.readouterr().err
