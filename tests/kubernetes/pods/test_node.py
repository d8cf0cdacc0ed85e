"""What a user of the cluster counts on: Services and names between pods, and port-forward, proxy, logs from outside."""

import json
import urllib.request

import pytest
import yaml

from tests.kubernetes.apiserver.operators import ROOT, Kubectl, eventually
from tests.kubernetes.pods.traffic import forwarded

pytestmark = pytest.mark.pods

CONFINED_POD = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
CONFINED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
SERVE = "import http.server as h; print('serving', flush=True); h.test(h.SimpleHTTPRequestHandler, port=8000)"


@pytest.fixture(scope="module")
def web(kubectl: Kubectl) -> Kubectl:
    """Two pods that serve their own empty folder, behind a Service `web` and a headless one `each`."""
    values = yaml.safe_load((ROOT / "hack/cluster/values.yaml").read_text())
    image = "{repository}:{tag}".format(**values["image"])
    labels = {"app": "web"}
    container = {"name": "web", "image": image, "command": ["python3", "-c", SERVE]}
    container |= {"readinessProbe": {"httpGet": {"port": 8000}, "periodSeconds": 1}, "securityContext": CONFINED}
    pod = {"containers": [container], "terminationGracePeriodSeconds": 0}
    pod |= {"securityContext": CONFINED_POD}
    template = {"metadata": {"labels": labels}, "spec": pod}
    ports = [{"name": "http", "port": 80, "targetPort": 8000}]
    kubectl.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web"},
            "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template},
        },
        service("web", {"selector": labels, "ports": ports}),
        service("each", {"selector": labels, "ports": ports, "clusterIP": "None"}),
    )
    # kubectl itself is given a minute by the tests' wrapper.
    kubectl("wait", "--for=condition=Available", "deployment/web", "--timeout=55s")
    return kubectl


def service(name: str, spec: dict[str, object]) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def inside(kubectl: Kubectl, code: str) -> str:
    """What Python prints in one of the pods."""
    return kubectl("exec", "deployment/web", "--", "python3", "-c", code).strip()


def tried_inside(kubectl: Kubectl, code: str) -> str:
    """The same; nothing where it fails."""
    return kubectl.tried("exec", "deployment/web", "--", "python3", "-c", code).stdout.strip()


def test_pods_reach_a_service_by_its_name(web: Kubectl) -> None:
    address = f"http://web.{web.namespace}.svc"
    code = f"import urllib.request as u; print([u.urlopen('{address}', timeout=10).status for _ in range(8)])"
    # A Service routes to pods a moment after they are ready.
    routed = eventually(lambda: "200" in (found := tried_inside(web, code)) and found, "an answer of the Service")
    assert routed == str([200] * 8)


def test_a_headless_service_names_every_pod(web: Kubectl) -> None:
    code = "import json, socket; print(json.dumps(sorted(socket.gethostbyname_ex('each')[2])))"
    addresses = sorted(pod["status"]["podIP"] for pod in web.items("pods", "app=web"))
    assert len(addresses) == 2
    eventually(lambda: tried_inside(web, code) == json.dumps(addresses), "the addresses of both pods")


def test_port_forward_reaches_a_service(web: Kubectl) -> None:
    with forwarded(web, "service/web", 80) as url, urllib.request.urlopen(url, timeout=30) as answer:
        assert answer.status == 200


def test_the_api_server_passes_requests_on_to_a_service(web: Kubectl) -> None:
    assert "Directory listing" in web("get", "--raw", f"/api/v1/namespaces/{web.namespace}/services/web:http/proxy/")


def test_logs_can_be_read(web: Kubectl) -> None:
    assert "serving" in web("logs", "deployment/web")


def test_pods_of_the_projects_images_run_as_nobody_in_particular(web: Kubectl) -> None:
    assert inside(web, "import os, pwd; print(os.getuid(), os.getgid(), pwd.getpwuid(os.getuid())[0])") == (
        "65532 65532 omni"
    )


@pytest.mark.parametrize("image", ["workerImage", "image"])
def test_the_projects_images_run_as_any_user(kubectl: Kubectl, image: str) -> None:
    """As on a cluster that assigns a user to each namespace: it has no name, no home and no group of ours."""
    values = yaml.safe_load((ROOT / "hack/cluster/values.yaml").read_text())
    name = f"anyone-{image.lower()}"
    served = ["serve", "builtin://digits", "--host=0.0.0.0"]
    code = f"import getpass, pathlib; pathlib.Path.home().joinpath(getpass.getuser()).touch(); {SERVE}"
    container = {
        "name": "omni",
        "image": "{repository}:{tag}".format(**values[image]),
        **({"args": served} if image == "workerImage" else {"command": ["python3", "-c", code]}),
        "readinessProbe": {
            "httpGet": {"port": 8000, "path": "/readyz" if image == "workerImage" else "/"},
            "periodSeconds": 1,
        },
        "securityContext": {**CONFINED, "readOnlyRootFilesystem": True},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    pod = {
        "containers": [container],
        "terminationGracePeriodSeconds": 0,
        "securityContext": {**CONFINED_POD, "runAsUser": 1_000_650_000, "runAsGroup": 0},
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    kubectl.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod})

    def is_ready() -> bool:
        conditions = kubectl.get("pod", name).get("status", {}).get("conditions", [])
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    eventually(is_ready, "a pod that serves", 600)
    kubectl("delete", "pod", name)
