"""Finds the credentials for an API server: this pod's service account, or a context of the kubeconfig.

The official client reads both. It is imported late, because it takes most of the process's memory.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omni_operator.crd.objects import Object
from omni_operator.kube.errors import NoCredentials

POD_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def load_configuration(context: str | None = None, kubeconfig: str | None = None) -> tuple[Any, bool]:
    """The official client's configuration, and whether it is that of a service account inside the cluster.

    `context` names a context of the kubeconfig. Without `context` and `kubeconfig`: this pod's service account if there
    is one, otherwise the kubeconfig's current context. Raises NoCredentials.
    """
    from kubernetes import client, config

    configuration = client.Configuration()
    if context is None and kubeconfig is None:
        try:
            config.load_incluster_config(configuration)
            return configuration, True
        except config.ConfigException:
            pass
    require_context(context)
    try:
        config.load_kube_config(kubeconfig, context=context, client_configuration=configuration)
    except config.ConfigException as error:
        raise NoCredentials(
            f"no cluster to talk to: set KUBECONFIG to a kubeconfig file, or run in a pod ({error})"
        ) from None
    return configuration, False


def current_namespace(context: str | None = None) -> str:
    """The namespace of a context of the kubeconfig. Without `context`: this pod's, or that of the current context."""
    if context is None and POD_NAMESPACE_FILE.exists():
        return POD_NAMESPACE_FILE.read_text().strip()
    by_name, current = contexts()
    selected = current if context is None else by_name.get(context, {})
    return str(selected.get("context", {}).get("namespace") or "default")


def require_context(name: str | None) -> None:
    """Raises NoCredentials if the kubeconfig has no context of this name. Accepts None."""
    if name is not None and name not in (by_name := contexts()[0]):
        existing = ", ".join(sorted(by_name)) or "none"
        raise NoCredentials(f"--context {name}: the kubeconfig has no context of this name; it has: {existing}")


def contexts() -> tuple[Mapping[str, Object], Object]:
    """The kubeconfig's contexts by name, and the current one; both are empty if there is no kubeconfig."""
    from kubernetes import config

    try:
        found, current = config.list_kube_config_contexts()
    except config.ConfigException:
        return {}, {}
    return {each["name"]: each for each in found}, current or {}
