"""Checks that texts for people contain none of the words that this project does not use, because a reader has to think.

It reads the README, the docs, the chart, and the sources of the operator and the worker, whose strings are messages,
help and descriptions.

    python hack/prose.py
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXTS = ("*.md", "docs/**/*.md", "docs/**/*.html", "benchmarks/README.md", "charts/**/*.*", "operator/**/*.py",
         "worker/**/*.py", "worker/**/*.js", "worker/**/*.html")  # fmt: skip
GENERATED = "charts/omnipipeline/crds"
"""A folder of copies of texts in the sources."""
INSTEAD = {
    "anew": "again, from the start",
    "broke off": "ended early, was interrupted",
    "by chance": "at random, happens to",
    "come again": "try again",
    "comes again": "is repeated, is retried",
    "for ever": "forever, never",
    "go on with": "continue",
    "goes before": "overrides, comes first",
    "gone on with": "continued, resumed",
    "hence": "so",
    "is minded": "is supported",
    "mended": "fixed",
    "minds": "supports, follows",
    "more ado": "(leave it out)",
    "of itself": "(name the subject)",
    "shall": "must, will",
    "speaks of": "names, is about",
    "thereby": "so",
    "to be had": "available",
    "upon": "on",
    "whilst": "while",
    "whoever": "anyone who",
}
WORDS = re.compile(rf"\b({'|'.join(INSTEAD)})\b", re.IGNORECASE)


def texts() -> Iterator[Path]:
    for pattern in TEXTS:
        for file in sorted(ROOT.glob(pattern)):
            if not file.is_relative_to(ROOT / GENERATED):
                yield file


def problems(file: Path) -> Iterator[str]:
    """One line for each word that is not used, with what to write instead."""
    for number, line in enumerate(file.read_text().splitlines(), 1):
        for found in WORDS.findall(line):
            yield f"{file.relative_to(ROOT)}:{number}: {found!r}: write {INSTEAD[found.lower()]}"


def main() -> None:
    found = [problem for file in texts() for problem in problems(file)]
    if found:
        sys.exit("\n".join([*found, f"{len(found)} words that this project does not use"]))


if __name__ == "__main__":
    main()
