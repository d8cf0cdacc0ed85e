"""The command `omni completion`: prints a shell script that completes commands, flags and file names."""

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
    print(shtab.complete(build_parser(), args.shell))
    return 0


def build_parser() -> argparse.ArgumentParser:
    """One parser with every installed command as a subcommand."""
    parser = CommandParser(prog="omni")
    parser.add_argument("--version", action="store_true", help="name the version")
    commands = parser.add_subparsers(metavar="COMMAND")
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            command = load(entry)
        except MissingExtra:
            continue
        summary = command.HELP.splitlines()[0]
        subparser = commands.add_parser(entry.name, help=summary, description=summary)
        command.configure(subparser)
        for action in subparser._actions:
            if action.metavar == "FILE":
                action.complete = shtab.FILE  # type: ignore[attr-defined]  # how shtab learns of file names
    return parser
