"""Helm for those without its binary: the few commands this project uses, with Helm's own words.

    python hack/helm.py upgrade --install omnipipeline charts/omnipipeline --values hack/cluster/values.yaml --wait
    python hack/helm.py install omnipipeline charts/omnipipeline --create-namespace
    python hack/helm.py test omnipipeline
    python hack/helm.py rollback omnipipeline
    python hack/helm.py uninstall omnipipeline

Helm itself comes as a library, from the package helm-python-sdk. Against which cluster: --kubeconfig, else
OMNI_KUBECONFIG, else KUBECONFIG, else the project's own local cluster; never a default that might be production.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from helm_python import Chart, Config, HelmError, HelmNotFoundError, lint

PROJECT = Path(__file__).resolve().parents[1]
CHART = PROJECT / "charts/omnipipeline"
NAMESPACE = "omni-system"


class UsageError(Exception):
    """Something the caller must put right; the message is all that is shown."""


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except (HelmError, UsageError, OSError) as error:
        print(f"helm: {error}", file=sys.stderr)
        return 1
    return 0


def upgrade(args: argparse.Namespace) -> None:
    """Install or upgrade a release; with --crds, bring the chart's CRDs up to date first, which Helm leaves alone."""
    kubeconfig = find_kubeconfig(args.kubeconfig)
    values = collect_values(args.values, args.set)
    with tempfile.TemporaryDirectory() as scratch:
        args.chart = _for_old_server(kubeconfig, args.chart, Path(scratch))
        _upgrade(args, kubeconfig, values)


def _upgrade(args: argparse.Namespace, kubeconfig: Path, values: dict[str, Any]) -> None:
    if args.crds:
        # In the name under which Helm's library would apply them: the first word of this process's command line.
        manager = f"--field-manager={Path(sys.orig_argv[0]).name}"
        _kubectl(kubeconfig, "apply", "--server-side", "--force-conflicts", manager, "-f", args.chart / "crds")
    with Config(kubeconfig_path=kubeconfig, namespace=args.namespace) as config:
        options: dict[str, Any] = {
            "namespace": args.namespace,
            "timeout": args.timeout,
            "wait": "legacy" if args.wait else "hookOnly",
        }
        if args.command == "install" or (args.install and not _has_release(config, args.release)):
            create_namespace = args.command == "upgrade" or args.create_namespace
            release = config.install(args.chart, args.release, values, create_namespace=create_namespace, **options)
        else:
            release = config.upgrade(args.chart, args.release, values, **options)
    notes = release.get("notes") or (release.get("info") or {}).get("notes") or ""
    print(f"{args.release} is deployed in namespace {args.namespace}.", notes.strip(), sep="\n\n")


def rollback(args: argparse.Namespace) -> None:
    """Go back to an earlier revision of a release, as a new one; the CRD stays as it is."""
    wait = "legacy" if args.wait else "hookOnly"
    with Config(kubeconfig_path=find_kubeconfig(args.kubeconfig), namespace=args.namespace) as config:
        config.rollback(args.release, version=args.revision, timeout=args.timeout, wait=wait)
    print(f"{args.release} in namespace {args.namespace} is back at {args.revision or 'the revision before'}.")


def run_tests(args: argparse.Namespace) -> None:
    """Run the release's tests. If one fails, show the logs of its pods."""
    kubeconfig = find_kubeconfig(args.kubeconfig)
    with Config(kubeconfig_path=kubeconfig, namespace=args.namespace) as config:
        try:
            config.test(args.release, timeout=args.timeout)
        except HelmError as error:
            raise UsageError(f"{error}\n{_test_logs(kubeconfig, args.release)}") from error
    print(f"{args.release} in namespace {args.namespace} passes its tests.")


def _test_logs(kubeconfig: Path, release: str) -> str:
    """The last lines of a release's test pods, or why there are none."""
    chosen = f"--selector=app.kubernetes.io/name=omnipipeline-test,app.kubernetes.io/instance={release}"
    try:
        pods = json.loads(_kubectl(kubeconfig, "get", "pods", "--all-namespaces", chosen, "--output=json"))["items"]
        places = [(pod["metadata"]["namespace"], pod["metadata"]["name"]) for pod in pods]
        return "\n".join(
            _kubectl(kubeconfig, "logs", f"--namespace={where}", name, "--tail=50") for where, name in places
        )
    except UsageError as error:
        return f"no logs: {error}"


def uninstall(args: argparse.Namespace) -> None:
    with Config(kubeconfig_path=find_kubeconfig(args.kubeconfig), namespace=args.namespace) as config:
        config.uninstall(
            args.release, ignore_not_found=True, timeout=args.timeout, wait="legacy" if args.wait else None
        )
    print(f"{args.release} is no longer in namespace {args.namespace}; its CRD and the pipelines stay.")


def check(args: argparse.Namespace) -> None:
    """Lint a chart; any finding worse than information is an error."""
    report = lint(args.chart, collect_values(args.values, args.set), strict=True)
    bad = [f"{m['path']}: {m['error']}" for m in report["messages"] if m["severity"] > 1] + report["errors"]
    if bad:
        raise UsageError("\n".join(bad))
    print(f"{args.chart}: no complaints")


def template(args: argparse.Namespace) -> None:
    with Chart.load(args.chart) as chart:
        rendered = chart.render(collect_values(args.values, args.set), name=args.release, namespace=args.namespace)
    for name, text in sorted(rendered.items()):
        if name.endswith(".yaml") and text.strip():
            print(f"---\n# {name}\n{text.strip()}")


def find_kubeconfig(given: Path | None) -> Path:
    """The kubeconfig to use; see the top. Raises UsageError where there is none."""
    named = given or os.environ.get("OMNI_KUBECONFIG") or os.environ.get("KUBECONFIG")
    if named:
        path = Path(named)
        if not path.exists():
            raise UsageError(f"there is no kubeconfig {path}")
        return path
    found = subprocess.run(
        [
            sys.executable,
            str(PROJECT / "hack/cluster"),
            "kubeconfig",
            f"--kind={os.environ.get('CLUSTER', 'embedded')}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        raise UsageError("which cluster? Start one with `make cluster`, or set KUBECONFIG")
    return Path(found.stdout.strip())


def collect_values(files: list[Path], settings: list[str]) -> dict[str, Any]:
    """The values of the files, later ones over earlier ones, and over them `key.key=value` (a YAML scalar or list)."""
    values: dict[str, Any] = {}
    for file in files:
        _merge(values, yaml.safe_load(file.read_text()) or {})
    for setting in settings:
        path, is_set, text = setting.partition("=")
        if not is_set:
            raise UsageError(f"--set {setting}: expected KEY=VALUE")
        nested: Any = yaml.safe_load(text) if text else ""
        for key in reversed(path.split(".")):
            nested = {key: nested}
        _merge(values, nested)
    return values


def _for_old_server(kubeconfig: Path, chart: Path, scratch: Path) -> Path:
    """The chart, or a copy for a Kubernetes that it refuses: the development cluster's fallback is 1.20."""
    found = re.search(r'^kubeVersion: ">=1\.(\d+)', (chart / "Chart.yaml").read_text(), re.MULTILINE)
    server = json.loads(_kubectl(kubeconfig, "get", "--raw", "/version"))
    minor = int(server["minor"].rstrip("+"))
    if found is None or minor >= int(found[1]):
        return chart
    print(f"helm: the chart is for Kubernetes 1.{found[1]} and later; installing it on 1.{minor} for development",
          file=sys.stderr)  # fmt: skip
    copy = scratch / chart.resolve().name
    shutil.copytree(chart, copy)
    text = (copy / "Chart.yaml").read_text()
    (copy / "Chart.yaml").write_text(re.sub(r"^kubeVersion:.*\n", "", text, flags=re.MULTILINE))
    return copy


def _has_release(config: Config, name: str) -> bool:
    try:
        return bool(config.history(name))
    except HelmNotFoundError:
        return False


def _merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _kubectl(kubeconfig: Path, *argv: str | Path) -> str:
    program = shutil.which("kubectl") or str(Path(sys.executable).parent / "kubectl")
    done = subprocess.run(
        [program, "--kubeconfig", str(kubeconfig), *map(str, argv)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UsageError(done.stderr.strip())
    sys.stderr.write(done.stderr)  # warnings
    return done.stdout


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python hack/helm.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")

    def verb(name: str, run: Any, text: str, *, on_cluster: bool, has_chart: bool) -> argparse.ArgumentParser:
        one = verbs.add_parser(name, help=text, description=text)
        one.set_defaults(run=run)
        if run is not check:
            one.add_argument("release", nargs="?", default="omnipipeline", metavar="RELEASE")
            one.add_argument("--namespace", "-n", default=NAMESPACE, help=f"the release's namespace ({NAMESPACE})")
        if has_chart:
            one.add_argument("chart", nargs="?", type=Path, default=CHART, metavar="CHART")
            one.add_argument("--values", "-f", type=Path, action="append", default=[], metavar="FILE")
            one.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
        if on_cluster:
            one.add_argument("--kubeconfig", type=Path, metavar="FILE")
            one.add_argument("--wait", action="store_true", help="until everything is ready, or gone")
            one.add_argument("--timeout", type=int, default=300, metavar="SECONDS")
        return one

    for name, help_ in (("install", "install a release"), ("upgrade", "upgrade a release")):
        one = verb(name, upgrade, help_, on_cluster=True, has_chart=True)
        one.add_argument("--crds", action="store_true", help="apply the chart's CRDs first; Helm never upgrades them")
        if name == "install":
            one.add_argument("--create-namespace", action="store_true", help="its namespace too")
        else:
            one.add_argument("--install", action="store_true", help="install it, and its namespace, if it is not there")
    back = verb("rollback", rollback, "take a release back", on_cluster=True, has_chart=False)
    back.add_argument("revision", nargs="?", type=int, metavar="REVISION", help="to which (the one before)")
    verb("test", run_tests, "run the tests of a release", on_cluster=True, has_chart=False)
    verb("uninstall", uninstall, "remove a release", on_cluster=True, has_chart=False)
    verb("lint", check, "check a chart", on_cluster=False, has_chart=True)
    verb("template", template, "print what a chart renders to", on_cluster=False, has_chart=True)
    return parser


if __name__ == "__main__":
    sys.exit(main())
