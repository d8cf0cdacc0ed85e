"""The flags that the commands share: which pipeline is meant, and in which form the answer is wanted."""

import argparse

from omni_operator.client import endpoint
from omni_operator.client.endpoint import Endpoint, Wanted


def add_pipeline(parser: argparse.ArgumentParser) -> None:
    """--url, and the flags of `add_name`."""
    parser.add_argument("--url", help="address of the API, like http://127.0.0.1:8000 (default: found, or $OMNI_URL)")
    add_name(parser)


def add_name(parser: argparse.ArgumentParser) -> None:
    """--pipeline, --namespace, --context."""
    parser.add_argument("--pipeline", metavar="NAME", help="the pipeline, where there are several")
    parser.add_argument("-n", "--namespace", metavar="NAME", help="its namespace (default: the context's)")
    parser.add_argument("--context", metavar="NAME", help="context of the kubeconfig (default: the current one)")


def add_output(parser: argparse.ArgumentParser) -> None:
    """--output table or json."""
    parser.add_argument(
        "-o", "--output", choices=("table", "json"), default="table", help="the form of the answer (default: table)"
    )


def wanted(args: argparse.Namespace, url: str | None) -> Wanted:
    """What the flags say, with an address that may be one of them."""
    return Wanted(url, args.pipeline, args.namespace, args.context)


def find(args: argparse.Namespace) -> Endpoint:
    """The pipeline that the flags mean, as it is now, without waiting for it. Raises NoEndpoint."""
    return endpoint.find(wanted(args, args.url), 0.0, lambda _: None)
