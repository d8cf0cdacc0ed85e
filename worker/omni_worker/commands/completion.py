"""The command `omni completion`: prints a script that has a shell complete commands, flags and file names."""

import argparse
from importlib.metadata import entry_points

import shtab

from omni_worker.commands.cli import GROUP, CommandParser, MissingExtra, load

HELP = """Print a script that completes `omni` in bash or zsh.

  omni completion bash > ~/.local/share/bash-completion/completions/omni
  omni completion zsh > "${fpath[1]}/_omni"

In the shell that runs now, for this session alone:

  eval "$(omni completion bash)\""""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh"), help="the shell to print it for")


def run(args: argparse.Namespace) -> int:
    print(shtab.complete(every_command(), args.shell))
    return 0


def every_command() -> argparse.ArgumentParser:
    """One parser of all commands that are installed here."""
    parser = CommandParser(prog="omni")
    parser.add_argument("--version", action="store_true", help="name the version")
    commands = parser.add_subparsers(metavar="COMMAND")
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            command = load(entry)
        except MissingExtra:
            continue
        summary = command.HELP.splitlines()[0]
        own = commands.add_parser(entry.name, help=summary, description=summary)
        command.configure(own)
        for action in own._actions:
            if action.metavar == "FILE":
                action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab's way to be told
    return parser
