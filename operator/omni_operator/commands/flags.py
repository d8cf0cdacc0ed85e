"""The flags that several commands share: which pipeline is meant, and the format of the output."""

import argparse

from omni_operator.client import discovery
from omni_operator.client.endpoint import Endpoint, PipelineSelector


def add_pipeline_flags(parser: argparse.ArgumentParser) -> None:
    """Add --url, and the flags of `add_name_flags`."""
    parser.add_argument("--url", help="address of the API, like http://127.0.0.1:8000 (default: found, or $OMNI_URL)")
    add_name_flags(parser)


def add_name_flags(parser: argparse.ArgumentParser) -> None:
    """Add --pipeline, --namespace and --context."""
    parser.add_argument("--pipeline", metavar="NAME", help="the pipeline, where there are several")
    parser.add_argument("-n", "--namespace", metavar="NAME", help="its namespace (default: the context's)")
    parser.add_argument("--context", metavar="NAME", help="context of the kubeconfig (default: the current one)")


def add_output_flag(parser: argparse.ArgumentParser) -> None:
    """Add --output, table or json."""
    parser.add_argument(
        "-o", "--output", choices=("table", "json"), default="table", help="the form of the answer (default: table)"
    )


def selector(args: argparse.Namespace, url: str | None) -> PipelineSelector:
    """The pipeline that `url` and the flags of `add_name_flags` select."""
    return PipelineSelector(url, args.pipeline, args.namespace, args.context)


def find_endpoint(args: argparse.Namespace) -> Endpoint:
    """The API of the selected pipeline, without waiting for it to start. Raises EndpointNotFound."""
    return discovery.find_endpoint(selector(args, args.url), timeout=0.0, report_wait=lambda _: None)
