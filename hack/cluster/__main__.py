"""A one-node Kubernetes cluster for this project, on a Debian 12 machine with no Docker and no registry.

It runs in a sandbox of its own, with real pods, Services and DNS, and GPUs to schedule on. This machine reaches its API
server, and pods through it: `kubectl port-forward` works, as do `logs` and `exec`. Needs root.

The programs of Kubernetes come from the folder that OMNI_KUBERNETES names, else from the cache, else from the official
release, which is downloaded once, else they are compiled from Debian's source package (once, about 5 minutes).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):  # run as `python3 hack/cluster`
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from hack.cluster import context, kind, lifecycle, packages, programs
from hack.cluster.dns import follow
from hack.cluster.images import load_archive, update_images
from hack.cluster.instance import Instance
from hack.cluster.node import advertise_gpus
from hack.cluster.shell import ClusterError


def main(argv: list[str] | None = None) -> int:
    """Run one verb; an expected failure is one line and exit code 1."""
    args = _parser().parse_args(argv)
    try:
        if args.kind == "kind":
            _on_kind(args)
        else:
            _embedded(args)
    except ClusterError as error:
        print(f"cluster: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("cluster: interrupted; `up` starts afresh, `down` removes what was started", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 hack/cluster", description=__doc__)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--name", default="omni", help="which cluster, where there are several (omni)")
    common.add_argument(
        "--kind", nargs="?", const="kind", default="embedded", choices=("embedded", "kind"), metavar="embedded|kind",
        help="`--kind` alone: use kind and Docker instead of the embedded cluster",
    )  # fmt: skip
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, text: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, parents=[common], help=text, description=text)

    verb("check", "say in one line whether a cluster can run on this machine")
    build = verb(
        "build",
        "have what a cluster needs: Debian's packages, and the programs of Kubernetes, downloaded or else compiled",
    )
    up = verb("up", "start the cluster and print how to use it; clears up what a killed run left")
    up.add_argument("--no-node", action="store_true", help="API server and controllers only: no pods, a few seconds")
    for each in (build, up):
        each.add_argument(
            "--kubernetes", default="newest", metavar="VERSION",
            help=f"newest ({programs.NEWEST}), oldest (the oldest maintained: {programs.OLDEST}), or another (newest)",
        )  # fmt: skip
    unpack = verb("unpack", "put the programs of Kubernetes that are in an archive into the cache")
    unpack.add_argument("archives", nargs="+", type=Path, metavar="TAR")
    verb("load", "import image archives").add_argument("archives", nargs="+", type=Path, metavar="TAR")
    verb("gpus", "advertise COUNT nvidia.com/gpu on the node").add_argument("count", type=int, metavar="COUNT")
    images = verb("images", "build the project's two images and load them")
    images.add_argument("--no-load", action="store_true", help="build them into the cache only")
    verb("kubeconfig", "print the path of the kubeconfig file")
    verb("use", "make it the cluster that a bare kubectl talks to, until it is taken down")
    verb("status", "say whether it runs; exit code 1 when it does not")
    verb("down", "stop it and remove every trace but the cache")
    verb("dns", argparse.SUPPRESS)
    return parser


def _embedded(args: argparse.Namespace) -> None:
    packages.require_machine()
    instance = Instance(args.name)
    match args.verb:
        case "check":
            pass
        case "build":
            lifecycle.prepare(args.kubernetes, node=True)
        case "unpack":
            for archive in args.archives:
                programs.unpack(archive)
        case "up":
            lifecycle.up(instance, node=not args.no_node, kubernetes=args.kubernetes)
            print(f"export KUBECONFIG={instance.kubeconfig}")
        case "load":
            for archive in args.archives:
                load_archive(instance, archive)
        case "gpus":
            advertise_gpus(instance, args.count)
        case "images":
            update_images(None if args.no_load else instance)
        case "kubeconfig":
            if not instance.kubeconfig.exists():
                raise ClusterError(
                    f"{args.name} is not running; start it with `python3 hack/cluster up --name {args.name}`"
                )
            print(instance.kubeconfig)
        case "use":
            context.use(instance)
        case "status":
            answer = lifecycle.status(instance)
            if not answer.startswith("running"):
                raise ClusterError(f"{args.name}: {answer}")
            print(f"{args.name}: {answer}")
        case "down":
            context.forget(instance)
            lifecycle.down(instance)
        case "dns":
            follow(instance)


def _on_kind(args: argparse.Namespace) -> None:
    kind.require_kind()
    match args.verb:
        case "check" | "build" | "unpack" | "use":  # kind has no build, and makes itself the current context
            pass
        case "up":
            kind.up(args.name, args.kubernetes)
            print(f"export KUBECONFIG={kind.kubeconfig(args.name)}")
        case "load":
            kind.load(args.name, args.archives)
        case "gpus":
            kind.gpus(args.name, args.count)
        case "images":
            kind.images(args.name)
        case "kubeconfig":
            print(kind.kubeconfig(args.name))
        case "status":
            print(f"{args.name}: {kind.status(args.name)}")
        case "down":
            kind.down(args.name)


if __name__ == "__main__":
    sys.exit(main())
