"""`omni` itself: its overview, and parsers of which every part knows the flag types by name."""

import argparse
import os
from importlib.metadata import PackageNotFoundError, distribution, entry_points

import pytest

from omni_worker.commands import cli
from omni_worker.commands.cli import CommandParser


def test_the_overview_has_the_first_line_of_every_commands_help() -> None:
    for entry in entry_points(group=cli.GROUP):
        assert cli.summary(entry) == cli.load(entry).HELP.splitlines()[0]


def test_the_overview_says_what_a_command_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_kopf(name: str) -> object:
        if name == "kopf":
            raise PackageNotFoundError(name)
        return distribution(name)

    monkeypatch.setattr(cli, "distribution", without_kopf)
    (operator,) = entry_points(group=cli.GROUP, name="operator")
    (status,) = entry_points(group=cli.GROUP, name="status")
    assert cli.summary(operator).startswith("(not installed: the package 'kopf' is missing; install it with: pip ")
    assert cli.summary(status) == cli.load(status).HELP.splitlines()[0]


def test_named_flag_types_work_in_groups_and_sub_parsers(capsys: pytest.CaptureFixture[str]) -> None:
    parser = CommandParser(prog="omni")
    command: argparse.ArgumentParser = parser.add_subparsers().add_parser("wait")
    command.add_mutually_exclusive_group().add_argument("--rate", type="positive")
    command.add_argument_group("times").add_argument("--timeout", type="seconds")
    assert vars(parser.parse_args(["wait", "--rate=0.5", "--timeout=2"])) == {"rate": 0.5, "timeout": 2.0}
    with pytest.raises(SystemExit):
        parser.parse_args(["wait", "--timeout=0"])
    assert "argument --timeout: '0' is not a time; give seconds, more than 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "name", "wanted"),
    [
        ({"HTTPS_PROXY": "http://proxy"}, "NO_PROXY", "localhost,127.0.0.1,::1"),
        ({"http_proxy": "http://proxy", "no_proxy": "a.b"}, "no_proxy", "a.b,localhost,127.0.0.1,::1"),
        ({}, "NO_PROXY", None),
    ],
)
def test_no_library_reaches_a_loopback_address_through_a_proxy(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], name: str, wanted: str | None
) -> None:
    for variable in [one for one in os.environ if one.lower().endswith("_proxy")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv(name, "")  # so that it is as before after the test
    monkeypatch.delenv(name)
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    cli.keep_loopback_direct()
    assert os.environ.get(name) == wanted


def test_a_misspelled_command_or_option_is_answered_with_the_one_that_is_meant(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["generat"]) == 2
    assert "unknown command 'generat'; did you mean generate?" in capsys.readouterr().err
    assert cli.main(["zzz"]) == 2
    assert "did you mean" not in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["status", "--outptu=json"])
    assert "unrecognized arguments: --outptu=json; did you mean --output?" in capsys.readouterr().err
