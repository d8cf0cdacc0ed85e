"""Helm on a real API server: a release installed, upgraded, taken back and removed, in both scopes.

There is no node, so the operator that a release asks for is run here: the command of its Deployment, with the rights of
its ServiceAccount and no others. The tests of each release are steps: each goes on from where the one before stopped.
"""

import itertools
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes.api_reader import api_reader
from tests.kubernetes.apiserver.operators import (
    ROOT,
    Kubectl,
    Operator,
    StartOperator,
    children,
    eventually,
    serve,
    server_warnings,
)

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("alone")]
ACTS = "acts from now on"
KINDS = "deployments,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings"


@dataclass
class Release:
    """A release of the chart, in a namespace of its own."""

    kubectl: Kubectl
    folder: Path

    def helm(self, command: str, *arguments: str) -> str:
        named = [command, "omnipipeline", "--namespace", self.kubectl.namespace, *arguments]
        done = subprocess.run(
            [sys.executable, str(ROOT / "hack/helm.py"), *named],
            capture_output=True,
            text=True,
            env={**os.environ, "OMNI_KUBECONFIG": self.kubectl.kubeconfig},
        )
        assert done.returncode == 0, done.stderr
        assert not server_warnings(done.stderr)
        return done.stdout

    def upgrade(self, *settings: str) -> str:
        """Install or upgrade it with these settings over the chart's own values."""
        # The upgrade of the CRD is a Job, for which there is no node.
        given = [word for setting in ("crdUpgrade=false", *settings) for word in ("--set", setting)]
        return self.helm("upgrade", "--install", "--crds", *given)

    def objects(self) -> dict[str, dict[str, Any]]:
        """All that is the release's, in every namespace and in none."""
        selector = "app.kubernetes.io/name=omnipipeline-operator,app.kubernetes.io/managed-by=Helm"
        found = api_reader(self.kubectl.kubeconfig).items(KINDS, None, selector)
        return {
            "/".join(filter(None, (item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]))): item
            for item in found
            if item["metadata"]["annotations"]["meta.helm.sh/release-namespace"] == self.kubectl.namespace
        }

    def arguments(self) -> list[str]:
        """The operator's command line, as the release has it."""
        (container,) = self.kubectl.get("deployment", "omnipipeline")["spec"]["template"]["spec"]["containers"]
        return list(container["args"])

    def kubeconfig(self) -> str:
        """A kubeconfig with the rights of the operator, and no others."""
        config = json.loads(self.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
        config["users"][0]["user"] = {"token": self.kubectl("create", "token", "omnipipeline").strip()}
        config["contexts"][0]["context"]["namespace"] = self.kubectl.namespace
        file = self.folder / f"{uuid.uuid4().hex}.kubeconfig"
        file.write_text(json.dumps(config))
        return str(file)


@pytest.fixture(scope="module")
def namespaces(kubeconfig: str, definition: None) -> Iterator[Callable[[], Kubectl]]:
    """Makes namespaces that end with the module."""
    made: list[Kubectl] = []

    def make() -> Kubectl:
        kubectl = Kubectl(kubeconfig, f"chart-{uuid.uuid4().hex[:8]}")
        kubectl("create", "namespace", kubectl.namespace)
        made.append(kubectl)
        return kubectl

    yield make
    for kubectl in made:
        kubectl("delete", "namespace", kubectl.namespace, "--wait=false")


@pytest.fixture(scope="module")
def team(namespaces: Callable[[], Kubectl]) -> Kubectl:
    """A namespace in which a team has its pipelines."""
    return namespaces()


@pytest.fixture(scope="module")
def release(namespaces: Callable[[], Kubectl], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    """A release that serves the whole cluster, to begin with."""
    release = Release(namespaces(), tmp_path_factory.mktemp("release"))
    yield release
    release.helm("uninstall")


def operated(release: Release, start: StartOperator) -> Operator:
    """The operator of a release, run here as its Deployment has it run; it acts."""
    arguments = release.arguments()
    named = [value for flag, value in itertools.pairwise(arguments) if flag == "--namespace"]
    operator = start(*named, kubeconfig=release.kubeconfig())
    eventually(lambda: ACTS in operator.log.read_text(), "an operator that acts")
    return operator


def was_refused_nothing(operator: Operator) -> bool:
    log = operator.log.read_text().lower()
    return "forbidden" not in log and "traceback" not in log


def may(release: Release, verb: str, resource: str, *where: str) -> bool:
    """Whether the release's operator may do that."""
    who = f"--as=system:serviceaccount:{release.kubectl.namespace}:omnipipeline"
    return release.kubectl.tried("auth", "can-i", verb, resource, who, *where).stdout.startswith("yes")


# ---- one release, for the whole cluster and then for a namespace


def test_installed_it_serves_every_namespace_with_the_rights_it_was_given(
    release: Release, team: Kubectl, start_operator: StartOperator, digits: dict[str, Any]
) -> None:
    assert "It serves all namespaces." in release.upgrade()
    assert may(release, "patch", "deployments", "--all-namespaces")
    assert not may(release, "list", "secrets", "--all-namespaces")
    assert not may(release, "create", "pods", "--all-namespaces")
    assert not may(release, "update", "leases", "--all-namespaces")
    assert may(release, "update", "leases/omni-operator-all")
    assert not may(release, "update", "leases/other")
    operator = operated(release, start_operator)
    serve(team, digits)
    assert was_refused_nothing(operator)
    assert operator.stop() == 0


def test_an_upgrade_changes_what_its_values_say_and_nothing_else(release: Release) -> None:
    before = release.objects()
    release.upgrade("logLevel=debug", "workerImage.tag=other")
    after = release.objects()
    assert {name: one["metadata"]["uid"] for name, one in after.items()} == {
        name: one["metadata"]["uid"] for name, one in before.items()
    }
    changed = [name for name in after if after[name].get("spec") != before[name].get("spec")]
    assert changed == [f"Deployment/{release.kubectl.namespace}/omnipipeline"]
    assert "ghcr.io/omnipipeline/worker:other" in release.arguments()
    assert release.arguments()[-1] == "debug"


def test_a_rollback_brings_back_what_there_was(release: Release) -> None:
    release.helm("rollback")
    assert "ghcr.io/omnipipeline/worker:0.1.0" in release.arguments()
    assert release.arguments()[-1] == "info"


def test_for_one_namespace_it_gives_up_all_rights_elsewhere_and_serves_on(
    release: Release, team: Kubectl, start_operator: StartOperator
) -> None:
    assert f"It serves the namespaces {team.namespace}." in release.upgrade(f"watchNamespaces=[{team.namespace}]")
    assert not [name for name in release.objects() if name.startswith("Cluster")]
    assert not may(release, "patch", "deployments", "--all-namespaces")
    assert not may(release, "get", "omnipipelines")
    operator = operated(release, start_operator)
    team("scale", "op/digits", "--replicas=3")
    eventually(lambda: team.get("deployment", "digits-painter")["spec"]["replicas"] == 3, "the new count")
    assert was_refused_nothing(operator)


def test_taken_back_it_may_serve_every_namespace_again(release: Release) -> None:
    release.helm("rollback")
    assert may(release, "patch", "deployments", "--all-namespaces")
    own = {f"{kind}/{release.kubectl.namespace}/omnipipeline" for kind in ("Role", "RoleBinding")}
    assert {name for name in release.objects() if name.startswith("Role")} == own, "for its Lease"


def test_uninstalled_it_leaves_the_pipelines_and_what_serves_them(
    release: Release, team: Kubectl, digits: dict[str, Any]
) -> None:
    digits["spec"]["replicas"] = 3
    uids = {name: child["metadata"]["uid"] for name, child in team.children().items()}
    release.helm("uninstall")
    assert release.objects() == {}
    assert team.get("crd", "omnipipelines.omnipipeline.dev")
    assert sorted(uids) == children(digits)
    assert {name: child["metadata"]["uid"] for name, child in team.children().items()} == uids
    assert team.condition("Accepted")["status"] == "True"


# ---- two releases, for namespaces that overlap


def test_of_two_releases_for_the_same_namespace_one_serves_it_and_each_serves_its_own(
    namespaces: Callable[[], Kubectl],
    start_operator: StartOperator,
    digits: dict[str, Any],
    tmp_path: Path,
) -> None:
    own, shared, other = teams = [namespaces() for _ in range(3)]
    releases = [Release(namespaces(), tmp_path) for _ in range(2)]
    for release, served in zip(releases, ((own, shared), (shared, other)), strict=True):
        release.upgrade(f"watchNamespaces=[{', '.join(team.namespace for team in served)}]")
    first, second = (operated(release, start_operator) for release in releases)
    for team in teams:
        team.apply(digits)
    for team in teams:
        eventually(lambda team=team: sorted(team.children()) == children(digits), "the children")
    shared.settled()
    writers = {
        team.namespace: [f" {team.namespace}/digits" in one.log.read_text() for one in (first, second)]
        for team in teams
    }
    assert (writers[own.namespace], writers[other.namespace]) == ([True, False], [False, True])
    assert writers[shared.namespace] == [True, False], "the first has the Lease of the namespace that both serve"
    assert first.stop() == 0
    shared("scale", "op/digits", "--replicas=4")
    eventually(
        lambda: shared.get("deployment", "digits-painter")["spec"]["replicas"] == 4, "the count, by the other one", 45
    )
    assert was_refused_nothing(first)
    assert was_refused_nothing(second)
    for release in releases:
        release.helm("uninstall")
        assert release.objects() == {}
