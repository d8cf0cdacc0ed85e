"""kubectl and `omni operator`, as the tests use them: both are the real commands."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.kubernetes.api_reader import api_reader
from tests.worker.serving import free_ports

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples/digits.yaml"
EXAMPLE_OF_TWO = ROOT / "examples/digits-thinker.yaml"
OWNED = "deployments,services,configmaps,serviceaccounts,secrets,networkpolicies,poddisruptionbudgets"
LABEL = "app.kubernetes.io/managed-by=omni-operator"
OF_KUBECTL = ("Immediate deletion does not wait", "resource ", "deleting cluster-scoped resources", "Detected changes")
CHILDREN = [
    "ConfigMap/digits",
    "Deployment/digits-head",
    "Deployment/digits-painter",
    "NetworkPolicy/digits",
    "PodDisruptionBudget/digits-painter",
    "Secret/digits-keys",
    "Service/digits",
    "Service/digits-head",
    "ServiceAccount/digits",
]


def eventually(holds: Callable[[], Any], what: str, seconds: float = 240) -> Any:
    """The first true answer; what the operator and the controllers bring about takes its time."""
    deadline = time.monotonic() + seconds
    while not (answer := holds()):
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.2)
    return answer


def server_warnings(said: str) -> list[str]:
    """The API server's warnings in what kubectl, Helm or the operator printed, without kubectl's own."""
    warnings = re.findall(r"(?:^Warning: |the API server warns of |warnings\.go:\d+\] )(.*)$", said, re.MULTILINE)
    return [each for each in warnings if not each.startswith(OF_KUBECTL)]


def shown_name(item: dict[str, Any]) -> str:
    """The kind and name of an object; of a pipeline's Secret without what is random in its name."""
    return re.sub(r"^(Secret/.*-keys)-[0-9a-f]{8}$", r"\1", f"{item['kind']}/{item['metadata']['name']}")


class Kubectl:
    """kubectl in one namespace."""

    def __init__(self, kubeconfig: str, namespace: str) -> None:
        self.kubeconfig, self.namespace = kubeconfig, namespace

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        done = self.tried(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def tried(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        command = ["kubectl", f"--kubeconfig={self.kubeconfig}", f"--namespace={self.namespace}", *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=180)
        assert not (warnings := server_warnings(done.stderr)), f"{' '.join(arguments)}: {warnings}"
        return done

    def apply(self, *objects: dict[str, Any]) -> str:
        return self("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """One object. Read without a process, as `items` are, because tests that wait look often."""
        return api_reader(self.kubeconfig).get(kind, self.namespace, name)

    def items(self, kinds: str, selector: str = "") -> list[dict[str, Any]]:
        """All objects of these kinds, which commas separate."""
        return api_reader(self.kubeconfig).items(kinds, self.namespace, selector)

    def exists(self, kind: str, name: str) -> bool:
        return api_reader(self.kubeconfig).exists(kind, self.namespace, name)

    def children(self) -> dict[str, dict[str, Any]]:
        return {shown_name(item): item for item in self.items(OWNED, LABEL)}

    def keys_secret(self, name: str = "digits") -> dict[str, Any]:
        """The Secret that the head of a pipeline has."""
        volumes = self.get("deployment", f"{name}-head")["spec"]["template"]["spec"]["volumes"]
        return self.get("secret", next(one["secret"]["secretName"] for one in volumes if one["name"] == "keys"))

    def versions(self) -> dict[str, str]:
        """What changes with every write: the resource version of the pipelines and of all that is theirs.

        Of a budget only the generation: the cluster keeps count of its pods in it.
        """
        items = [*self.items("omnipipelines"), *self.items(OWNED, LABEL)]
        version = {"PodDisruptionBudget": "generation"}
        return {shown_name(item): str(item["metadata"][version.get(item["kind"], "resourceVersion")]) for item in items}

    def settled(self) -> dict[str, str]:
        """The versions, once they have stood still for a few looks."""
        looks: list[dict[str, str]] = []

        def stands_still() -> bool:
            looks.append(self.versions())
            time.sleep(0.4)
            return len(looks) >= 4 and all(look == looks[-1] for look in looks[-4:])

        eventually(stands_still, "a settled pipeline")
        return looks[-1]

    def condition(self, kind: str, name: str = "digits") -> dict[str, Any]:
        conditions = self.get("omnipipeline", name).get("status", {}).get("conditions", [])
        return next((condition for condition in conditions if condition["type"] == kind), {})

    def in_contexts(self, folder: Path) -> str:
        """A kubeconfig with two contexts: `here`, which has this namespace, and the current one, `elsewhere`."""
        config = json.loads(self("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
        own = config["contexts"][0]["context"]
        namespaces = {"here": self.namespace, "elsewhere": "default"}
        config["contexts"] = [{"name": name, "context": {**own, "namespace": of}} for name, of in namespaces.items()]
        config["current-context"] = "elsewhere"
        file = folder / "contexts.kubeconfig"
        file.write_text(json.dumps(config))
        return str(file)


class Operator:
    """`omni operator` as a process of its own, with more `flags` where there are."""

    def __init__(self, kubeconfig: str, log: Path, *namespaces: str, flags: tuple[str, ...] = ()) -> None:
        self.log = log
        self.probe_port, self.metrics_port = free_ports(2)
        scope = [f"--namespace={namespace}" for namespace in namespaces]
        command = [str(Path(sys.executable).with_name("omni")), "operator", f"--probe-port={self.probe_port}"]
        command += [f"--metrics-port={self.metrics_port}", *scope, *flags]
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                command,
                env={
                    "PATH": "/usr/bin:/bin",
                    "HOME": str(log.parent),
                    "KUBECONFIG": kubeconfig,
                    "PYTHONPATH": os.environ.get("PYTHONPATH", ""),  # of a work tree that is not the installed one
                },
                stdout=file,
                stderr=file,
            )

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def metrics(self) -> str:
        return httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics", trust_env=False).text

    def passes(self) -> int:
        """Those that came to an end and left nothing to do."""
        done = re.search(r'^omni_operator_reconcile_seconds_count{result="done"} (\S+)$', self.metrics(), re.MULTILINE)
        return int(float(done[1])) if done else 0

    def writes(self) -> int:
        return sum(" applied " in line or " deleted " in line for line in self.log.read_text().splitlines())

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(60)


StartOperator = Callable[..., Operator]


def serve(kubectl: Kubectl, manifest: dict[str, Any]) -> dict[str, str]:
    """Apply a pipeline, and wait until the operator has done all it will."""
    name = manifest["metadata"]["name"]
    kubectl.apply(manifest)
    eventually(lambda: sorted(kubectl.children()) == children(manifest), "the children")
    eventually(lambda: kubectl.condition("Ready", name).get("reason") == "Unschedulable", "a status that saw the pods")
    return kubectl.settled()


def children(manifest: dict[str, Any]) -> list[str]:
    """What a pipeline is made of."""
    name = manifest["metadata"]["name"]
    stages = [f"Deployment/{name}-{stage['name']}" for stage in manifest["spec"]["stages"]]
    budgets = [f"PodDisruptionBudget/{name}-{stage['name']}" for stage in manifest["spec"]["stages"]]
    others = ("ConfigMap/", "NetworkPolicy/", "Service/", "ServiceAccount/")
    return sorted(
        [
            *(kind + name for kind in others),
            f"Deployment/{name}-head",
            f"Service/{name}-head",
            f"Secret/{name}-keys",
            *stages,
            *budgets,
        ]
    )
