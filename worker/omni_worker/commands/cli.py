"""The command `omni`: finds its subcommands as entry points and runs one of them.

It imports only the module of the given command, so that `omni generate` does not wait for torch and the operator and
the worker stay independent. A command is a module with `HELP`, `configure(parser)` and `run(args) -> exit code`; its
parser is a `CommandParser`.
Exit codes: 0 done, 1 failure, 2 usage.
"""

import argparse
import ast
import os
import re
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from omni_worker.config.flag_types import NAMED_TYPES
from omni_worker.importing import importing

GROUP = "omni.commands"
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `omni ARGV` and return the exit code. Expected failures print a message without a traceback."""
    argv = list(sys.argv[1:] if argv is None else argv)
    keep_loopback_direct()
    commands = {entry.name: entry for entry in entry_points(group=GROUP)}
    name = argv[0] if argv else "--help"
    try:
        if name in ("-h", "--help"):
            print(overview(commands), flush=True)
            return 0
        if name == "--version":
            print(f"omni {version('omnipipeline')}")
            return 0
        if name not in commands:
            hint = did_you_mean([name], commands)
            print(f"omni: unknown command {name!r}{hint}; there are: {', '.join(sorted(commands))}", file=sys.stderr)
            return 2
        command = load(commands[name])
        parser = CommandParser(
            prog=f"omni {name}", description=command.HELP, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        command.configure(parser)
        # Flags may stand between positional arguments: omni generate digits -o three.png "a red three"
        return int(command.run(parser.parse_intermixed_args(argv[1:])))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        code = getattr(error, "exit_code", None)
        if code is None:
            raise
        print(f"omni {name}: {error}", file=sys.stderr)
        return int(code)


def keep_loopback_direct() -> None:
    """Let no library of this process, nor a process that it starts, reach a loopback address through a proxy."""
    name = "no_proxy" if "no_proxy" in os.environ else "NO_PROXY"
    if any(variable.lower().endswith("_proxy") for variable in os.environ):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), *LOOPBACK_HOSTS)))


class CommandParser(argparse.ArgumentParser):
    """The parser of a command. It knows the flag types by name, so that every package can use them: `type="seconds"`.

    Argument groups share these types, and sub-parsers are of this class too. For a misspelled option, the error names
    the one that is probably meant.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, convert in NAMED_TYPES.items():
            self.register("type", name, convert)

    def error(self, message: str) -> NoReturn:
        """Print the usage and the error, and exit with 2."""
        if message.startswith("unrecognized arguments:"):
            given = [word.partition("=")[0] for word in message.split() if word.startswith("-")]
            message += did_you_mean(given, self._option_string_actions)
        super().error(message)


def did_you_mean(given: Iterable[str], known: Iterable[str]) -> str:
    """`; did you mean …?` with the known name that is most like one of those given; empty if none is."""
    known = list(known)
    matches = [match for name in given for match in get_close_matches(name, known, 1)]
    return f"; did you mean {matches[0]}?" if matches else ""


def overview(commands: dict[str, EntryPoint]) -> str:
    """The text of `omni --help`: each command with the first line of its help."""
    lines = ["usage: omni COMMAND …", "", "Serve multi-stage generative models, on Kubernetes or on this machine.", ""]
    for name, entry in sorted(commands.items()):
        lines.append(f"  {name:<10} {summary(entry)}")
    return "\n".join([*lines, "", "`omni COMMAND --help` explains a command; `omni --version` names the version."])


def summary(entry: EntryPoint) -> str:
    """The first line of a command's help. Reads its module as text, because the imports take most of a second."""
    for extra in entry.extras:
        if package := missing_package(extra):
            return f"(not installed: {MissingExtra(package, extra)})"
    spec = find_spec(entry.module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{entry.module} is not an installed module")
    for statement in ast.parse(Path(spec.origin).read_text()).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id="HELP")], value=ast.Constant(value=str(text))):
                return text.splitlines()[0]
    raise AssertionError(f"{entry.module} has no HELP")


def missing_package(extra: str) -> str | None:
    """The first distribution that an extra of ours requires and that is not installed."""
    for requirement in requires("omnipipeline") or ():
        name, _, condition = requirement.partition(";")
        if re.search(rf"""extra == ['"]{extra}['"]""", condition):
            package = re.split(r"[^\w.-]", name.strip(), maxsplit=1)[0]
            try:
                distribution(package)
            except PackageNotFoundError:
                return package
    return None


class MissingExtra(Exception):
    """A command's packages are not installed."""

    exit_code = 1

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"the package {package!r} is missing; install it with: pip install 'omnipipeline[{extra}]'")


def load(entry: EntryPoint):  # type: ignore[no-untyped-def]  # a module, by convention
    """Import the module of a command. Raises MissingExtra, naming what to install."""
    try:
        with importing():
            return entry.load()
    except ModuleNotFoundError as error:
        extra = entry.module.partition(".")[0].removeprefix("omni_")
        raise MissingExtra(str(error.name), extra) from error


if __name__ == "__main__":
    sys.exit(main())
