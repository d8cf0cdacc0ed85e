"""Reads kubeconfig files: which clusters, users and contexts they have, and what is wrong with a file.

Files are merged as kubectl does it: the first one that names something wins. Certificates, tokens and plugins are the
official client's part.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from omni_operator.kube.errors import BrokenKubeconfig, NoCredentials
from omni_operator.kube.proxies import PROXY_SCHEMES, is_address, without_password

POD_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class Record(BaseModel):
    """A part of a kubeconfig, without the fields that only the official client reads."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]


class Context(Record):
    cluster: str
    user: Text = ""
    namespace: Text = ""


class ClusterEntry(Record):
    server: str
    proxy_url: Text = Field("", alias="proxy-url")


class NamedContext(Record):
    name: str
    context: Context


class NamedCluster(Record):
    name: str
    cluster: ClusterEntry


class NamedUser(Record):
    name: str
    user: dict[str, Any] | None = None


class KubeconfigFile(Record):
    """The content of one file."""

    current_context: Text = Field("", alias="current-context")
    contexts: list[NamedContext] | None = None
    clusters: list[NamedCluster] | None = None
    users: list[NamedUser] | None = None


@dataclass(frozen=True)
class Kubeconfig:
    """Files, in the order of their precedence: of two things with one name the first counts."""

    paths: Sequence[Path]
    files: Sequence[KubeconfigFile]

    @property
    def shown(self) -> str:
        """The files, for messages."""
        return os.pathsep.join(map(str, self.paths))

    @property
    def current_name(self) -> str:
        return next((file.current_context for file in self.files if file.current_context), "")

    def contexts(self) -> dict[str, Context]:
        return {one.name: one.context for file in reversed(self.files) for one in reversed(file.contexts or ())}

    def clusters(self) -> dict[str, ClusterEntry]:
        return {one.name: one.cluster for file in reversed(self.files) for one in reversed(file.clusters or ())}

    def users(self) -> dict[str, dict[str, Any]]:
        return {one.name: one.user or {} for file in reversed(self.files) for one in reversed(file.users or ())}

    def select(self, name: str | None) -> str:
        """The name of the context to use: `name`, or without it the current one. Checks what that context needs.

        Raises BrokenKubeconfig.
        """
        contexts = self.contexts()
        existing = f"it has: {', '.join(sorted(contexts)) or 'none'}"
        selected = name or self.current_name
        if not selected:
            raise self.broken(f"it has no current-context; {existing}", "`kubectl config use-context NAME` sets it")
        if selected not in contexts:
            if name:
                raise BrokenKubeconfig(f"--context {name}: the kubeconfig {self.shown} has no such context; {existing}")
            remedy = "`kubectl config use-context NAME` selects another"
            raise self.broken(f"its current-context {selected!r} is not among its contexts; {existing}", remedy)
        context, clusters = contexts[selected], self.clusters()
        for kind, wanted, there in (("cluster", context.cluster, clusters), ("user", context.user, self.users())):
            if wanted and wanted not in there:
                remedy = f"add it, or correct contexts[name={selected}].context.{kind}"
                raise self.broken(f"context {selected!r} names the {kind} {wanted!r}, which it lacks", remedy)
        self._check_cluster(context.cluster, clusters[context.cluster])
        return selected

    def broken(self, problem: str, remedy: str) -> BrokenKubeconfig:
        return BrokenKubeconfig(f"the kubeconfig {self.shown} cannot be used: {problem}; {remedy}")

    def _check_cluster(self, name: str, cluster: ClusterEntry) -> None:
        where = f"clusters[name={name}].cluster"
        if not is_address(cluster.server, ("http", "https")):
            problem = f"{where}.server: {cluster.server!r} is not an address"
            raise self.broken(problem, "expected one like https://HOST:6443")
        if cluster.proxy_url and not is_address(cluster.proxy_url, PROXY_SCHEMES):
            problem = f"{where}.proxy-url: {without_password(cluster.proxy_url)!r} is not the address of an HTTP proxy"
            raise self.broken(problem, "expected one like http://HOST:3128; SOCKS is not supported")


def read_kubeconfig(kubeconfig: str | None = None) -> Kubeconfig:
    """The files that `kubeconfig` or KUBECONFIG names, or the one in the home directory.

    Raises NoCredentials if there is none, and BrokenKubeconfig if one cannot be read.
    """
    named = kubeconfig or os.environ.get("KUBECONFIG", "")
    default = Path.home() / ".kube/config"
    paths = [Path(text).expanduser() for text in named.split(os.pathsep) if text] or [default]
    existing = [path for path in paths if path.exists()]
    if not existing:
        if paths == [default]:
            raise NoCredentials("no cluster to talk to: set KUBECONFIG to a kubeconfig file, or run in a pod")
        raise BrokenKubeconfig(f"there is no kubeconfig {named}; set KUBECONFIG to one, or unset it to use {default}")
    return Kubeconfig(existing, [read_file(path) for path in existing])


def read_file(path: Path) -> KubeconfigFile:
    """Raises BrokenKubeconfig with the place of what is wrong."""
    remedy = "correct it, or set KUBECONFIG to another"
    try:
        content = yaml.safe_load(path.read_text())
        if not isinstance(content, dict):
            found = "it is empty" if content is None else f"expected a mapping, found {type(content).__name__}"
            raise BrokenKubeconfig(f"the kubeconfig {path} cannot be used: {found}; {remedy}")
        return KubeconfigFile.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(f"{place(one['loc'])}: {one['msg']}" for one in error.errors()[:3])
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problems = f"{where}{error.problem or 'not YAML'}"
    except (yaml.YAMLError, RecursionError):
        problems = "not YAML"
    except UnicodeDecodeError:
        problems = "it is not text"
    except OSError as error:
        problems = error.strerror or str(error)
    raise BrokenKubeconfig(f"the kubeconfig {path} cannot be used: {problems}; {remedy}")


def place(location: Sequence[str | int]) -> str:
    """A path such as clusters[0].cluster.server."""
    return "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in location).lstrip(".")


def current_namespace(context: str | None = None) -> str:
    """The namespace of a context of the kubeconfig. Without `context`: this pod's, or that of the current context."""
    if context is None and POD_NAMESPACE_FILE.exists():
        return POD_NAMESPACE_FILE.read_text().strip()
    try:
        kubeconfig = read_kubeconfig()
    except NoCredentials:
        return "default"
    return kubeconfig.contexts()[kubeconfig.select(context)].namespace or "default"
