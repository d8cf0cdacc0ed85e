"""What people copy from the documentation is valid: manifests, command lines, links, and make targets."""

import argparse
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from omni_operator.crd.parsing import parse
from omni_operator.crd.spec.pipeline import KIND
from omni_operator.crd.status_types import ConditionType
from omni_operator.planning import conditions, observed, pod_trouble, status
from omni_worker.commands.cli import CommandParser

PROJECT = Path(__file__).parents[2]
BESIDE = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md", "charts/omnipipeline/README.md")
PAGES = [*(PROJECT / file for file in BESIDE), *sorted((PROJECT / "docs").rglob("*.md"))]
EXAMPLES = sorted((PROJECT / "examples").glob("*.yaml"))
SHELL = ("console", "sh", "bash")
COMMANDS = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["entry-points"]["omni.commands"]


def name(path: Path) -> str:
    return str(path.relative_to(PROJECT))


def blocks(page: Path, *languages: str) -> Iterator[str]:
    """The fenced blocks of a page in any of the languages."""
    for found in re.finditer(r"^```(\w+)[^\n]*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        if found[1] in languages:
            yield found[2]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def typed(block: str) -> Iterator[str]:
    """The commands of a block: the lines with a prompt, or every line if there is no prompt. Joins continued lines."""
    has_prompt = re.search(r"^\$ ", block, re.MULTILINE)
    for line in block.replace("\\\n", " ").splitlines():
        if has_prompt and not line.startswith("$ "):
            continue
        for command in re.split(r"\s+&&\s+", line.removeprefix("$ ")):
            yield command.split("  #")[0].split("     (")[0].strip()


def commands() -> Iterator[tuple[str, str]]:
    """Every command line in the documentation and the examples, with the file it is in."""
    for page in PAGES:
        for block in blocks(page, *SHELL):
            for command in typed(block):
                yield name(page), command
    for example in EXAMPLES:
        for line in example.read_text().splitlines():
            if found := re.match(r"#   ((?:omni|kubectl) .*)", line):
                yield name(example), re.split(r"\s{4,}|  ", found[1])[0]


def manifests() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every document in a YAML block, with its place."""
    for page in PAGES:
        for number, block in enumerate(blocks(page, "yaml"), 1):
            for document in yaml.safe_load_all(block):
                yield f"{name(page)}, block {number}", document


def patched(base: Any, patch: Any) -> Any:
    """`base` with `patch` applied: mappings are merged, everything else is replaced."""
    if not (isinstance(base, Mapping) and isinstance(patch, Mapping)):
        return patch
    return {**base, **{key: patched(base.get(key), value) for key, value in patch.items()}}


def parser_of(command: str) -> argparse.ArgumentParser:
    parser = CommandParser(prog=f"omni {command}", exit_on_error=False)
    import_module(COMMANDS[command].partition(" ")[0]).configure(parser)  # without the extra that it needs
    return parser


OMNI = [
    pytest.param(command.split(" ", 1)[1], id=f"{where}: {command}")
    for where, command in ((where, re.sub(r"^(\w+=\S+ )+", "", command)) for where, command in commands())
    if command.startswith("omni ")
]
MANIFESTS = [pytest.param(manifest, id=where) for where, manifest in manifests()]


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_a_manifest_is_valid(manifest: dict[str, Any]) -> None:
    """A fragment that starts with `spec` must be valid when it is merged into the first example."""
    if "kind" not in manifest:
        assert set(manifest) == {"spec"}, "start a fragment of a pipeline with `spec`"
        base = yaml.safe_load((PROJECT / "examples/digits.yaml").read_text())
        parse(patched(base, manifest))
    elif manifest["kind"] == KIND:
        parse(manifest)
    else:
        assert manifest["apiVersion"]
        assert manifest["metadata"]["name"]


@pytest.mark.parametrize("command", OMNI)
def test_omni_accepts_a_command_line(command: str) -> None:
    subcommand, *arguments = shlex.split(command)
    assert subcommand in COMMANDS
    try:
        parser_of(subcommand).parse_args(arguments)
    except (SystemExit, argparse.ArgumentError) as error:
        pytest.fail(f"omni {subcommand} does not understand it: {error}")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_command_in_the_text_has_only_existing_options(page: Path) -> None:
    for code in re.findall(r"`omni ([a-z][^`]*)`", prose(page)):
        subcommand, *words = code.split()
        assert subcommand in COMMANDS, code
        known = {option for action in parser_of(subcommand)._actions for option in action.option_strings}
        flags = {word.partition("=")[0] for word in words if word.startswith("-")}
        assert flags <= known, code


def test_files_that_commands_name_exist() -> None:
    for where, command in commands():
        for path in re.findall(r"(?<![\w/.-])(?:examples|charts|operator|worker|hack)/[\w./-]+", command):
            assert (PROJECT / path).exists(), f"{where}: {command}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_images_have_a_target(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        file = target.partition("#")[0]
        if file and "://" not in file:
            assert (page.parent / file).exists(), f"{name(page)}: {target}"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        found_commands = [command for block in blocks(page, *SHELL) for command in typed(block)]
        found_commands += re.findall(r"`([^`]*)`", prose(page))
        for command in found_commands:
            if found := re.match(r"(?:\w+=\S+ )*make ([a-z-]+)", command):
                assert found[1] in targets, f"{name(page)}: {command}"


def test_every_reason_of_the_operator_is_documented() -> None:
    """Only reasons that the operator sets itself. It also passes on reasons of the cluster."""
    source = "".join(Path(str(module.__file__)).read_text() for module in (status, conditions, observed, pod_trouble))
    kinds = "|".join(get_args(ConditionType))
    given = re.findall(rf'"(?:{kinds})", (?:True|False), "(\w+)"', source)
    given += re.findall(r'Trouble\(\w+, "(\w+)"', source)
    page = (PROJECT / "docs/troubleshooting.md").read_text()
    assert len(given) > 20
    assert [reason for reason in given if f"`{reason}`" not in page] == []


def test_every_page_is_in_the_site() -> None:
    site = (PROJECT / "mkdocs.yml").read_text()
    for page in (PROJECT / "docs").rglob("*.md"):
        assert str(page.relative_to(PROJECT / "docs")) in site


def test_every_promise_has_existing_tests() -> None:
    rows = re.findall(r"^\| (\d+) \| .+ \| (.+) \|$", (PROJECT / "docs/promises.md").read_text(), re.MULTILINE)
    existing = {
        found
        for file in (PROJECT / "tests").rglob("test_*.py")
        for found in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    assert [int(number) for number, _ in rows] == list(range(1, 39))
    for number, cell in rows:
        named = set(re.findall(r"test_\w+", cell))
        assert named, number
        assert named <= existing, number
