"""Policies that change the Deployments of pipelines as the API server stores them, as platform teams have them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from tests.kubernetes.apiserver.operators import Kubectl, eventually
from tests.kubernetes.pods.test_node import CONFINED, CONFINED_POD

SINCE = (36, "MutatingAdmissionPolicy v1")
ADMISSION = "admissionregistration.k8s.io/v1"
PROBE = "digits-probe"


@contextmanager
def mutating_policy(kubectl: Kubectl, mutation: dict[str, Any], sign: str) -> Iterator[None]:
    """A policy for the Deployments in kubectl's namespace that are named `digits…`. `sign`: some text that it adds."""
    name = kubectl.namespace
    rule = {"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}
    rule |= {"operations": ["CREATE", "UPDATE"]}
    here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}, "resourceRules": [rule]}
    spec = {
        "matchConstraints": here,
        "matchConditions": [{"name": "pipelines", "expression": "object.metadata.name.startsWith('digits')"}],
        "failurePolicy": "Fail",
        "reinvocationPolicy": "Never",
        "mutations": [mutation],
    }
    kinds = {"MutatingAdmissionPolicy": spec, "MutatingAdmissionPolicyBinding": {"policyName": name}}
    of_all = {"apiVersion": ADMISSION, "metadata": {"name": name}}
    kubectl.apply(*({**of_all, "kind": kind, "spec": content} for kind, content in kinds.items()))
    eventually(lambda: sign in tried_out(kubectl), "a policy that acts")
    yield
    kubectl("delete", "mutatingadmissionpolicybinding,mutatingadmissionpolicy", name)


def tried_out(kubectl: Kubectl) -> str:
    """What the API server would make of a Deployment, whose pods are as restricted as a namespace may ask for."""
    container = {"name": "omni", "image": "omni", "securityContext": CONFINED}
    pod = {"containers": [container], "securityContext": CONFINED_POD, "terminationGracePeriodSeconds": 5}
    labels = {"app": "probe"}
    template = {"metadata": {"labels": labels}, "spec": pod}
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
    probe = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": PROBE}, "spec": spec}
    return kubectl("create", "--dry-run=server", "-o", "yaml", "-f", "-", stdin=yaml.safe_dump(probe))
