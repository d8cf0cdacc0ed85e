"""Writes the table of values in the chart's README from values.yaml: each value, its default, and the comment above it.

python hack/chart_readme.py           write it
python hack/chart_readme.py --check   fail where the committed table is not what values.yaml says
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).resolve().parents[1]
CHART = PROJECT / "charts/omnipipeline"
README = CHART / "README.md"
BEGIN, END = "<!-- values: begin -->\n", "<!-- values: end -->\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    text = README.read_text()
    wanted = with_table(text, (CHART / "values.yaml").read_text())
    if check and text != wanted:
        print(f"{README.relative_to(PROJECT)} is not what values.yaml says; run `make reference`", file=sys.stderr)
        return 1
    README.write_text(wanted)
    return 0


def with_table(readme: str, values: str) -> str:
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + "\n".join(table(values)) + "\n" + END + after


def table(values: str) -> Iterator[str]:
    comments = comments_of(values)
    yield "| value | default | what it says |\n|---|---|---|"
    for path, default in leaves(yaml.safe_load(values)):
        # A comment holds for all that is below it, and is told once.
        parts = path.split(".")
        above = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
        said = next((comments.pop(one) for one in above if one in comments), "")
        yield f"| `{path}` | `{json.dumps(default)}` | {said} |"


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(node, dict) or not node:
        yield path, node
        return
    for key, below in node.items():
        yield from leaves(below, f"{path}.{key}".removeprefix("."))


def comments_of(values: str) -> dict[str, str]:
    """The comment above each key, by its path."""
    found: dict[str, str] = {}
    comment: list[str] = []
    path: list[tuple[int, str]] = []
    for line in values.splitlines():
        key = re.match(r"( *)([A-Za-z]+):", line)
        if line.lstrip().startswith("#"):
            comment.append(line.strip().removeprefix("#").strip())
        elif key:
            depth = len(key[1])
            path = [*((one, name) for one, name in path if one < depth), (depth, key[2])]
            if comment:
                found[".".join(name for _, name in path)] = " ".join(comment)
            comment = []
        elif not line.strip():
            comment = []
    return found


if __name__ == "__main__":
    sys.exit(main())
