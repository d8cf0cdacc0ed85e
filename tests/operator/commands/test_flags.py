"""Which pipeline the arguments and flags of a command select."""

from importlib import import_module
from typing import Any

import pytest

from omni_operator.client.endpoint import PipelineSelector
from omni_operator.commands import flags
from omni_operator.commands.flags import BadSelection
from omni_worker.commands.cli import CommandParser

URL = "http://127.0.0.1:8000"
COMMANDS = ("status", "top", "models", "generate", "bench.command")


def selected(command: str, *argv: str) -> PipelineSelector:
    """What a command selects. `generate` gets a prompt too, after the name if there is one."""
    parser = CommandParser()
    import_module(f"omni_operator.commands.{command}").configure(parser)
    args: Any = parser.parse_intermixed_args([*argv, "a red three"] if command == "generate" else argv)
    if command == "generate":
        assert args.prompt == "a red three"
    names = args.names if command == "bench.command" else [args.name]
    return flags.selector(args, names[0] if names else None)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_the_pipelines_name_as_kubectl_does(command: str) -> None:
    assert selected(command) == PipelineSelector()
    assert selected(command, "digits") == PipelineSelector(pipeline="digits")
    assert selected(command, "-n", "team-a", "digits") == PipelineSelector(pipeline="digits", namespace="team-a")
    assert selected(command, "digits", "-n", "team-a").namespace == "team-a"
    assert selected(command, "digits", "--context", "here").context == "here"
    assert selected(command, "--pipeline", "digits") == PipelineSelector(pipeline="digits")
    assert selected(command, "--url", URL) == selected(command, URL) == PipelineSelector(url=URL)


CONTRADICTIONS = [
    (("digits", "--url", URL), f"PIPELINE digits and --url {URL}: give one of them"),
    (("digits", "--pipeline", "letters"), "PIPELINE digits and --pipeline letters: give one of them"),
    (("--pipeline", "letters", "--url", URL), f"--pipeline letters and --url {URL}: give one of them"),
    ((URL, "--url", URL), "give one of them"),
    (("--url", URL, "-n", "team-a"), f"-n team-a: leave it out, because {URL} is an address"),
    ((URL, "--context", "here"), f"--context here: leave it out, because {URL} is an address"),
]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("argv", "message"), CONTRADICTIONS)
def test_flags_that_contradict_each_other_are_refused(command: str, argv: tuple[str, ...], message: str) -> None:
    with pytest.raises(BadSelection, match=message):
        selected(command, *argv)


def test_a_prompt_may_stand_before_between_and_after_flags() -> None:
    parser = CommandParser()
    import_module("omni_operator.commands.generate").configure(parser)
    for argv in (
        ["digits", "a red three", "-o", "three.png"],
        ["digits", "-o", "three.png", "a red three"],
        ["-o", "three.png", "digits", "a red three"],
    ):
        args = parser.parse_intermixed_args(argv)
        assert (args.name, args.prompt, args.output) == ("digits", "a red three", "three.png")
    assert parser.parse_intermixed_args(["--seed", "1", "--", "-3 apples"]).prompt == "-3 apples"
