"""A real Prometheus on loopback, which is given what the chart makes for one: its monitors and its rules."""

import re
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.charts.test_chart import CHART, documents
from tests.worker.serving import eventually, free_ports

SECONDS = 2
WINDOW = "15s"
RULES = (CHART / "files/rules.yaml").read_text()


@dataclass(frozen=True)
class Target:
    """A pod as Kubernetes would name it, at a port of this machine."""

    port: int
    namespace: str
    pod: str
    pod_labels: dict[str, str]
    annotations: dict[str, str] = field(default_factory=dict)

    @property
    def labels(self) -> dict[str, str]:
        """What Prometheus is told of it before the relabelings of a monitor: as its Kubernetes discovery tells."""
        told = {"label": self.pod_labels, "annotation": self.annotations}
        meta = {
            f"__meta_kubernetes_pod_{kind}_{name_of(key)}": value
            for kind, pairs in told.items()
            for key, value in pairs.items()
        }
        return {"namespace": self.namespace, "pod": self.pod, **meta}


def name_of(key: str) -> str:
    return re.sub(r"\W", "_", key)


def in_prometheus_words(node: Any) -> Any:
    """A part of a monitor, whose keys are in camelCase, as Prometheus has it."""
    if isinstance(node, list):
        return [in_prometheus_words(one) for one in node]
    if not isinstance(node, dict):
        return node
    return {
        re.sub("[A-Z]", lambda one: f"_{one[0].lower()}", key): in_prometheus_words(one) for key, one in node.items()
    }


def jobs(targets: list[Target]) -> list[dict[str, Any]]:
    """A job for each PodMonitor of the chart, of the targets that it selects."""
    made = documents({"monitoring": {"podMonitors": {"enabled": True}}})
    return [
        {
            "job_name": monitor["metadata"]["name"],
            "tls_config": in_prometheus_words(endpoint.get("tlsConfig", {})),
            "relabel_configs": in_prometheus_words(endpoint.get("relabelings", [])),
            "metric_relabel_configs": in_prometheus_words(endpoint.get("metricRelabelings", [])),
            "static_configs": [
                {"targets": [f"127.0.0.1:{one.port}"], "labels": one.labels}
                for one in targets
                if monitor["spec"]["selector"]["matchLabels"].items() <= one.pod_labels.items()
            ],
        }
        for monitor in made
        if monitor["kind"] == "PodMonitor"
        for endpoint in monitor["spec"]["podMetricsEndpoints"]
    ]


def impatient(rules: str) -> str:
    """The rules, which look back for seconds and wait for none."""
    return re.sub(r"\[\d+m\]", f"[{WINDOW}]", re.sub(r"^ *for: .*\n", "", rules, flags=re.MULTILINE))


class Prometheus:
    """One that scrapes `targets` every two seconds."""

    def __init__(self, program: str, folder: Path, targets: list[Target]) -> None:
        (port,) = free_ports(1)
        # One client, without certificates: to load them takes longer than a request, and tests ask often.
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", verify=False, timeout=20)
        every = {"scrape_interval": f"{SECONDS}s", "evaluation_interval": f"{SECONDS}s"}
        (folder / "rules.yaml").write_text(impatient(RULES))
        config = {"global": every, "rule_files": ["rules.yaml"], "scrape_configs": jobs(targets)}
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        self._log = (folder / "log").open("w")
        self._process = subprocess.Popen(
            [
                program, f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=self._log, stderr=self._log,
        )  # fmt: skip
        eventually(lambda: self._client.get("/-/ready").is_success, "Prometheus")

    def ask(self, path: str, **params: str) -> Any:
        answer = self._client.get(f"/api/v1/{path}", params=params).json()
        assert answer["status"] == "success", f"{params}: {answer.get('error')}"
        return answer["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples that an expression gives now. Fails where it is none."""
        samples: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return samples

    def firing(self) -> set[str]:
        alerts = self.ask("alerts")["alerts"]
        return {one["labels"]["alertname"] for one in alerts if one["state"] == "firing"}

    def wait_for(self, *alerts: str, seconds: float = 90) -> None:
        wanted = set(alerts)
        seen: set[str] = set()
        deadline = time.monotonic() + seconds
        while not wanted <= seen and time.monotonic() < deadline:
            seen |= self.firing()
            time.sleep(0.2)
        assert wanted <= seen, f"{wanted - seen} did not fire"

    def close(self) -> None:
        self._client.close()
        self._process.terminate()
        self._process.wait(20)
        self._log.close()
