"""The command `omni operator`: its flags, and the start of the process. `controller` contains the operator itself."""

import argparse
import logging
import os
import socket
import sys
import uuid

from omni_operator.controller.kopf_wiring import run_operator, wait_for_definition
from omni_operator.controller.leadership.leader import CLUSTER_LEASE, NAMESPACE_LEASE
from omni_operator.controller.operator import Operator
from omni_operator.controller.probe import listening_socket
from omni_operator.kube.client import Cluster

HELP = """Run the operator, which reconciles every OmniPipeline.

Connects to the cluster it runs in, or to that of the current kubeconfig, and runs until SIGTERM. If several operators
watch all namespaces, or the same namespace, one is active and another takes over when it stops. An operator for all
namespaces ignores those that another operator watches.

  omni operator                                     all namespaces
  omni operator --namespace team-a --namespace team-b"""

RECURSION_LIMIT = 25_000
"""For reading JSON: the API server accepts objects with 10,000 levels, and one that cannot be read would stop the watch
of all pipelines. Reading takes less than 2 MiB of the stack then. `crd.parsing` rejects such a spec."""
DEFAULT_WORKER_IMAGE = "ghcr.io/omnipipeline/worker:0.1.0"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--worker-image",
        metavar="IMAGE",
        default=os.environ.get("OMNI_WORKER_IMAGE", DEFAULT_WORKER_IMAGE),
        help="image of the pods, if the pipeline sets none (default: $OMNI_WORKER_IMAGE, or %(default)s)",
    )
    parser.add_argument(
        "--namespace",
        action="append",
        default=[],
        metavar="NAME",
        help="watch only this namespace; repeatable (default: all)",
    )
    parser.add_argument(
        "--max-upgrades",
        type="count",
        default=1,
        metavar="N",
        help="how many pipelines roll at a time after an upgrade of the operator (default: 1)",
    )
    parser.add_argument(
        "--probe-port", type=int, default=8080, metavar="PORT", help="port of /healthz; 0 for none (default: 8080)"
    )
    parser.add_argument(
        "--metrics-port", type=int, default=8081, metavar="PORT", help="port of /metrics; 0 for none (default: 8081)"
    )
    parser.add_argument(
        "--leader-election",
        action=argparse.BooleanOptionalAction,
        default=True,
        help=f"act only while holding a Lease, so only one of several operators acts: {CLUSTER_LEASE} in this pod's"
        f" namespace, or {NAMESPACE_LEASE} in each --namespace for that one alone (default: do so)",
    )
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="minimum level of the log (default: info)",
    )


def run(args: argparse.Namespace) -> int:
    logging.basicConfig(
        level=args.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    sys.setrecursionlimit(RECURSION_LIMIT)
    for verbose_library in ("kopf", "aiohttp.access"):
        logging.getLogger(verbose_library).setLevel(logging.WARNING)
    for flag, port in (("--probe-port", args.probe_port), ("--metrics-port", args.metrics_port)):
        if port:
            require_free_port(flag, port)
    cluster, namespaces = Cluster(), tuple(args.namespace)
    operator = Operator(cluster, args.worker_image, namespaces, args.max_upgrades)
    if args.leader_election:
        operator.require_leases(identity=f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}")
    if args.metrics_port:
        operator.serve_metrics(args.metrics_port)
    wait_for_definition(cluster, namespaces)
    run_operator(operator, cluster.connection, args.probe_port)
    return 1 if operator.background.failure else 0


class PortInUse(Exception):
    """Another process listens on the port for the probes or the metrics."""

    exit_code = 1


def require_free_port(flag: str, port: int) -> None:
    """Raises PortInUse. The servers that use the port would only fail later, with a traceback."""
    try:
        listening_socket(port).close()
    except OSError as error:
        raise PortInUse(f"{flag} {port}: {os.strerror(error.errno or 0)}; choose another port, or 0 for none") from None
