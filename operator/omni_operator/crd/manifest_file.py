"""Reads the only `OmniPipeline` of a YAML file, for commands that take a manifest. Every error names the file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from omni_operator.crd.parsing import parse
from omni_operator.crd.problems import InvalidSpec
from omni_operator.crd.spec.pipeline import KIND, OmniPipeline


class ManifestError(Exception):
    """The file has no valid pipeline. The message says why, and what to do."""

    exit_code = 2


def load(path: str) -> OmniPipeline:
    """Return the pipeline of a file with one or more YAML documents. Other kinds are ignored. Raises ManifestError."""
    candidates = [d for d in documents(path) if isinstance(d, Mapping) and d.get("kind") == KIND]
    if not candidates:
        raise ManifestError(f"{path}: there is no {KIND} in it; expected a document with `kind: {KIND}`")
    if len(candidates) > 1:
        raise ManifestError(f"{path}: there are {len(candidates)} {KIND}s in it; keep one to a file")
    try:
        return parse(candidates[0])
    except InvalidSpec as invalid:
        problems = [str(problem) for problem in invalid.problems]
        if len(problems) == 1:
            raise ManifestError(f"{path}: {problems[0]}") from None
        raise ManifestError("\n  - ".join([f"{path}: {len(problems)} problems", *problems])) from None


def documents(path: str) -> list[Any]:
    """Parse every YAML document of a file. Raises ManifestError if it cannot be read or is not YAML."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ManifestError(f"{path}: there is no such file; give the path of an {KIND} manifest") from None
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not text: {error.reason} at byte {error.start}; expected YAML in UTF-8") from None
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror}; give the path of an {KIND} manifest") from None
    try:
        return list(yaml.safe_load_all(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ManifestError(f"{path}: not YAML: {where}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ManifestError(f"{path}: not YAML: {error}") from None
