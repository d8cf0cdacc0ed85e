"""Pods that a policy of the cluster changes: they serve with the change, and the operator leaves it alone."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.kubernetes.apiserver.operators import EXAMPLE, Kubectl, eventually
from tests.kubernetes.conftest import skip_before
from tests.kubernetes.mutating_policies import SINCE, mutating_policy
from tests.kubernetes.pods.traffic import Pipeline, Wish, forwarded

pytestmark = pytest.mark.pods

PATIENCE = 600
CHANGE = """Object{
  spec: Object.spec{
    template: Object.spec.template{
      metadata: Object.spec.template.metadata{annotations: {"example.com/injected": "yes"}},
      spec: Object.spec.template.spec{
        terminationGracePeriodSeconds: 77,
        containers: [Object.spec.template.spec.containers{
          name: "omni",
          env: [Object.spec.template.spec.containers.env{name: "INJECTED", value: "by-policy"}]
        }]
      }
    }
  }
}"""


@pytest.fixture(scope="module", autouse=True)
def the_server_has_such_policies(kubeconfig: str) -> None:
    """Before any other fixture of the module."""
    skip_before(kubeconfig, *SINCE)


@pytest.fixture(scope="module")
def policy(kubectl: Kubectl) -> Iterator[None]:
    """What a platform team does: the Deployments of a namespace get an annotation and a variable."""
    mutation = {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": CHANGE}}
    with mutating_policy(kubectl, mutation, sign="example.com/injected"):
        yield


@pytest.fixture(scope="module")
def digits(kubectl: Kubectl, operator: str, policy: None) -> Kubectl:
    """The example with one painter, which is Ready."""
    manifest: dict[str, Any] = copy.deepcopy(yaml.safe_load(EXAMPLE.read_text()))
    manifest["spec"]["replicas"] = 1
    kubectl.apply(manifest)
    eventually(lambda: kubectl.condition("Ready").get("status") == "True", "a pipeline that is Ready", PATIENCE)
    return kubectl


def test_pods_serve_with_what_a_policy_puts_into_them(digits: Kubectl) -> None:
    code = "import os; print(os.environ['INJECTED'])"
    for deployment in ("digits-head", "digits-painter"):
        assert digits("exec", f"deployment/{deployment}", "--", "python3", "-c", code).strip() == "by-policy"
        template = digits.get("deployment", deployment)["spec"]["template"]
        assert template["metadata"]["annotations"]["example.com/injected"] == "yes"
        assert template["spec"]["terminationGracePeriodSeconds"] == 77, "and not what the operator applies"
    with forwarded(digits, "service/digits", 8000) as url:
        assert Pipeline(url).fulfils(Wish(4, "blue", seed=3))


def test_the_operator_takes_a_policys_change_for_no_drift(digits: Kubectl) -> None:
    before = digits.settled()
    digits("annotate", "deployment", "digits-painter", "example.com/looked-at=yes")
    after = digits.settled()
    changed = {name for name in after if after[name] != before[name]} - {"OmniPipeline/digits"}  # its status may
    assert changed == {"Deployment/digits-painter"}
    assert digits.get("deployment", "digits-painter")["metadata"]["annotations"]["example.com/looked-at"] == "yes"
    digits("scale", "op/digits", "--replicas=2")
    eventually(lambda: digits.get("op", "digits")["status"].get("readyReplicas") == 2, "a second painter", PATIENCE)
    painters = digits.items("pods", "omnipipeline.dev/role=replica")
    assert [pod["metadata"]["annotations"]["example.com/injected"] for pod in painters] == ["yes"] * 2
