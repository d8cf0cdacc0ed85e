"""The flags that several commands share: which pipeline is meant, and the format of the output."""

import argparse

from omni_operator.client import discovery
from omni_operator.client.endpoint import Endpoint, PipelineSelector

ADDRESS_PREFIXES = ("http://", "https://")


class BadOption(Exception):
    """An option has an unusable value, or does not fit the other options."""

    exit_code = 2


class BadSelection(BadOption):
    """The flags select two things at once."""


def add_pipeline_flags(parser: argparse.ArgumentParser) -> None:
    """Add the argument PIPELINE, and the flags that select one."""
    parser.add_argument(
        "name", nargs="?", metavar="PIPELINE", help="its name, or the address of its API (default: the only one)"
    )
    add_selection_flags(parser)


def add_selection_flags(parser: argparse.ArgumentParser) -> None:
    """Add --url, --pipeline, --namespace and --context."""
    parser.add_argument("--url", help="address of the API, like http://127.0.0.1:8000 (default: found, or $OMNI_URL)")
    parser.add_argument("--pipeline", metavar="NAME", help="the same as PIPELINE")
    parser.add_argument("-n", "--namespace", metavar="NAME", help="its namespace (default: the context's)")
    parser.add_argument("--context", metavar="NAME", help="context of the kubeconfig (default: the current one)")


def add_output_flag(parser: argparse.ArgumentParser) -> None:
    """Add --output, table or json."""
    parser.add_argument(
        "-o", "--output", choices=("table", "json"), default="table", help="output format (default: table)"
    )


def selector(args: argparse.Namespace, name: str | None) -> PipelineSelector:
    """The pipeline that an argument PIPELINE and the flags select. Raises BadSelection for a contradiction."""
    given = {"PIPELINE": name, "--pipeline": args.pipeline, "--url": args.url}
    several = [f"{flag} {value}" for flag, value in given.items() if value]
    if len(several) > 1:
        raise BadSelection(f"{' and '.join(several)}: give one of them, because each selects a pipeline")
    selected = name or args.pipeline or args.url
    is_address = bool(args.url) or (selected or "").startswith(ADDRESS_PREFIXES)
    place = [f"{flag} {value}" for flag, value in (("-n", args.namespace), ("--context", args.context)) if value]
    if is_address and place:
        raise BadSelection(f"{' and '.join(place)}: leave it out, because {selected} is an address; or give a name")
    if is_address:
        return PipelineSelector(url=selected)
    return PipelineSelector(None, selected, args.namespace, args.context)


def find_endpoint(args: argparse.Namespace) -> Endpoint:
    """The API of the selected pipeline, without waiting for it to start. Raises BadSelection, EndpointNotFound."""
    return discovery.find_endpoint(selector(args, args.name), timeout=0.0, report_wait=lambda _: None)
