"""Writes docs/reference.md from the code: the object, the commands' flags, the HTTP routes, the metrics.

python hack/reference.py           write it
python hack/reference.py --check   fail where the committed page is not what the code says
"""

import argparse
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from omni_operator.controller.metrics import OperatorMetrics
from omni_worker.api.app import create_app
from omni_worker.commands.cli import GROUP, CommandParser
from omni_worker.coordinator.coordinator import TrafficCounts
from omni_worker.coordinator.metrics_collector import MembershipCollector
from omni_worker.orchestrator.metrics_collector import PoolCollector, ResultCacheCollector
from omni_worker.orchestrator.orchestrator import Orchestrator
from omni_worker.orchestrator.result_cache import ResultCache
from omni_worker.replica.metrics_collector import ChildCollector
from omni_worker.telemetry.metrics import AccessMetrics, HeadMetrics

PROJECT = Path(__file__).resolve().parents[1]
PAGE = PROJECT / "docs/reference.md"
CRD = PROJECT / "crds/omnipipelines.yaml"
HEAD = """# Reference

Generated from the code by `make reference`.
"""
HTTP = """## HTTP

Errors are `{"error": {"message", "type", "param", "code"}}`. Every process answers the probes `/livez`, `/startupz` and
`/readyz`, and `/metrics`; a head's `/docs` shows this list for the running server.
"""


def main() -> int:
    """Write the page, or compare it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    text = "\n".join([HEAD, *the_object(), *the_commands(), *the_routes(), *the_metrics()]).rstrip() + "\n"
    if args.check and PAGE.read_text() != text:
        print(f"{PAGE.relative_to(PROJECT)} is not what the code says; run `make reference`", file=sys.stderr)
        return 1
    PAGE.write_text(text)
    return 0


def the_object() -> Iterator[str]:
    """Each field of the object's spec, from the CRD."""
    definition = yaml.safe_load(CRD.read_text())
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    yield "## The object\n"
    yield "| field | type | default | what it says |\n|---|---|---|---|"
    yield from _fields(schema, "spec")
    yield ""


def _fields(schema: dict[str, Any], path: str) -> Iterator[str]:
    for name, field in schema.get("properties", {}).items():
        where = f"{path}.{name}"
        required = " (required)" if name in schema.get("required", []) else ""
        default = f"`{field['default']}`" if "default" in field and not isinstance(field["default"], dict) else ""
        yield f"| `{where}`{required} | {_type(field)} | {default} | {field.get('description', '')} |".replace(
            "\n", " "
        )
        yield from _fields(field, where)
        yield from _fields(field.get("items", {}), f"{where}[]")
        yield from _fields(field.get("additionalProperties", {}), f"{where}.*")


def _type(field: dict[str, Any]) -> str:
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if field.get("x-kubernetes-int-or-string"):
        return "integer or string"
    bounds = f" {field['minimum']} to {field['maximum']}" if {"minimum", "maximum"} <= set(field) else ""
    return f"{field.get('type', 'any')}{bounds}"


def the_commands() -> Iterator[str]:
    """The flags of every command, from its parser."""
    yield "## The commands\n"
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        command = entry.load()
        parser = CommandParser(add_help=False)
        command.configure(parser)
        yield f"### omni {entry.name}\n\n{command.HELP.splitlines()[0]}\n"
        yield "| flag | what it does |\n|---|---|"
        for action in parser._actions:
            names = ", ".join(f"`{name}`" for name in action.option_strings) or f"`{action.metavar or action.dest}`"
            text = (action.help or "").replace("%(default)s", str(action.default)).replace("|", "\\|")
            yield f"| {names} | {text} |"
        yield ""


def the_routes() -> Iterator[str]:
    """The routes of the head, from its OpenAPI description, and the fields of their bodies."""
    app: FastAPI = create_app(Orchestrator([], HeadMetrics(CollectorRegistry())), "model", [])
    description = app.openapi()
    yield HTTP
    yield "| route | what it does |\n|---|---|"
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            yield f"| `{method.upper()} {path}` | {operation.get('description', '')} |"
    yield "\n`POST /v1/images/generations` takes:\n\n| field | default | what it says |\n|---|---|---|"
    body = description["components"]["schemas"]["ImageGenerationRequest"]
    for name, field in body["properties"].items():
        required = " (required)" if name in body.get("required", []) else ""
        default = f"`{field['default']}`" if field.get("default") is not None else ""
        yield f"| `{name}`{required} | {default} | {field.get('description', '')} |"
    yield ""


def the_metrics() -> Iterator[str]:
    """The names that Prometheus sees."""
    registry = CollectorRegistry()
    HeadMetrics(registry)
    AccessMetrics(registry)
    registry.register(PoolCollector([], lambda now: {}))
    registry.register(ResultCacheCollector(ResultCache(0)))
    registry.register(ChildCollector([]))
    registry.register(
        MembershipCollector(SimpleNamespace(traffic=TrafficCounts()), SimpleNamespace(last_publication_at=0.0))
    )
    of_the_operator = [one for one in OperatorMetrics().registry.collect() if one.name.startswith("omni_")]
    yield "## Metrics\n\n| name | type | what it counts |\n|---|---|---|"
    for metric in sorted([*registry.collect(), *of_the_operator], key=lambda metric: metric.name):
        suffix = "_total" if metric.type == "counter" else ""
        yield f"| `{metric.name}{suffix}` | {metric.type} | {metric.documentation} |"


if __name__ == "__main__":
    sys.exit(main())
