"""Every expression of the rules and of the dashboard, by a real Prometheus that scrapes a real pipeline under load.

The pipeline's processes are on this machine, and Prometheus is told of them what Kubernetes would tell. What the
operator says of itself comes from its own server of metrics. First all is well; then one fault comes after another.
"""

import contextlib
import os
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from omni_operator.controller.metrics import OperatorMetrics
from omni_operator.crd.status_types import Condition, StageStatus, Status
from omni_operator.planning.manifests import labels
from tests.worker.serving import Pipeline, Process, client_of, draw_with, eventually, free_ports

from .prometheus import WINDOW, Prometheus, Target
from .test_dashboard import DASHBOARD, PANELS
from .test_rules import CONTENT

pytestmark = [pytest.mark.processes, pytest.mark.timeout(600)]
STAGES = [
    {"id": 0, "name": "thinker", "engine": "autoregressive"},
    {"id": 1, "name": "painter", "engine": "diffusion", "input": "hidden-states"},
]
NAMES = [stage["name"] for stage in STAGES]
PLACES = 40  # at the painter, which runs one request at a time
LONG = 1000  # steps
ASKED = "two plus five, in blue"
NOW = "2026-01-01T00:00:00Z"
LINES = {
    f"{panel['title']}: {target['legendFormat']}": target["expr"] for panel in PANELS for target in panel["targets"]
}
RULES = {str(one.get("alert") or one["record"]): one["expr"] for group in CONTENT["groups"] for one in group["rules"]}
ONLY_WITH_A_FAULT = ("OmniOperatorDown",)  # gives nothing while all is well, without a threshold too


class Traffic:
    """A few requests a second from two clients; what fails is asked for again."""

    def __init__(self, port: int) -> None:
        self._port, self._stop = port, threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(2)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(openai.OpenAIError):
                ask(self._port)
            self._stop.wait(0.5)

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)


def ask(port: int, timeout: float = 30, steps: int = 4) -> None:
    draw_with(client_of(port).with_options(timeout=timeout), ASKED, num_inference_steps=steps)


def pod(process: Process, role: str, stage: str) -> Target:
    return Target(process.port, "gallery", f"digits-{role}-{stage}", labels.of_role("digits", role, stage))


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    pipeline = Pipeline(stages=STAGES, heartbeat_timeout=4.0)
    try:
        pipeline.add_stage(0)
        pipeline.add_stage(1, "--max-num-seqs", "1", "--max-waiting", str(PLACES - 1))
        eventually(pipeline.head.is_ready, "both stages up")
        yield pipeline
    finally:
        pipeline.close()


@pytest.fixture(scope="module")
def operator() -> Target:
    """What an operator tells that leads, and looks after this pipeline."""
    metrics, (port,) = OperatorMetrics(), free_ports(1)
    ready = Condition(type="Ready", status="True", reason="Serving", message="", last_transition_time=NOW)
    stages = tuple(StageStatus(name=name, desired=1, replicas=1, ready=1, updated=1) for name in NAMES)
    metrics.set_pipeline("gallery", "digits", Status(stages=stages, conditions=(ready,)))
    metrics.reconcile_seconds.labels("done").observe(0.1)
    metrics.reconcile_seconds.labels("refused").observe(0.1)
    metrics.count_call("GET", 200)
    metrics.leading.set(1)
    metrics.serve(port)
    own = {"app.kubernetes.io/name": "omnipipeline-operator", "app.kubernetes.io/instance": "omnipipeline"}
    return Target(port, "omni-system", "omnipipeline-0", own)


@pytest.fixture(scope="module")
def prometheus(
    prometheus_program: str, pipeline: Pipeline, operator: Target, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    thinker, painter = pipeline.headless
    pods = [
        pod(pipeline.head, labels.HEAD, "painter"),
        pod(thinker, labels.REPLICA, "thinker"),
        pod(painter, labels.REPLICA, "painter"),
    ]
    prometheus = Prometheus(prometheus_program, tmp_path_factory.mktemp("prometheus"), [*pods, operator])
    traffic = Traffic(pipeline.head.port)
    try:
        yield prometheus
    finally:
        traffic.close()
        prometheus.close()


def filled_in(expression: str) -> str:
    """As Grafana asks it."""
    for variable, value in (("$__rate_interval", WINDOW), ("$namespace", "gallery"), ("$pipeline", ".*")):
        expression = expression.replace(variable, value)
    return expression


def without_thresholds(expression: str) -> str:
    return re.sub(r"\s(==|>=|>)\s[\d.]+", "", expression)


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_the_dashboard_has_samples(line: str, prometheus: Prometheus) -> None:
    eventually(lambda: prometheus.query(filled_in(LINES[line])), "samples")


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in ONLY_WITH_A_FAULT])
def test_a_rule_goes_by_what_there_is(rule: str, prometheus: Prometheus) -> None:
    eventually(lambda: prometheus.query(without_thresholds(RULES[rule])), "samples")


def test_the_dashboard_finds_namespaces_and_pipelines(prometheus: Prometheus) -> None:
    for variable in DASHBOARD["templating"]["list"][1:]:
        found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
        assert found
        asked = {"match[]": filled_in(found[1])}
        assert prometheus.ask(f"label/{found[2]}/values", **asked) == [{"namespace": "gallery"}.get(found[2], "digits")]


def test_what_a_pod_tells_of_itself_is_of_its_stage_and_the_heads_tell_of_all(prometheus: Prometheus) -> None:
    for name in ("omni_engine_running", "omni_replica_up"):
        found = [one["metric"] for one in prometheus.query(name)]
        assert sorted(one["stage"] for one in found) == sorted(NAMES)
        assert {one["pipeline"] for one in found} == {"digits"}
        assert not any("exported_stage" in one or "stage_of_pod" in one for one in found)


def test_no_alert_fires_while_all_is_well(prometheus: Prometheus) -> None:
    eventually(lambda: not prometheus.firing(), "quiet", 90)


def test_a_full_queue_is_told_of(prometheus: Prometheus, pipeline: Pipeline) -> None:
    def long() -> None:
        with contextlib.suppress(openai.APITimeoutError, openai.RateLimitError):
            ask(pipeline.head.port, timeout=20, steps=LONG)

    with ThreadPoolExecutor(2 * PLACES) as pool:
        for _ in range(PLACES + 5):
            pool.submit(long)
        prometheus.wait_for("OmniRequestsRefused", "OmniQueueSlow")
    eventually(lambda: not prometheus.firing(), "an end of it", 90)


def test_a_stage_that_lost_its_replica_is_told_of(prometheus: Prometheus, pipeline: Pipeline) -> None:
    _, painter = pipeline.headless
    (replica,) = painter.replicas
    os.kill(replica, signal.SIGSTOP)
    try:
        prometheus.wait_for("OmniReplicaDown", "OmniStageDown")
        with pytest.raises(openai.InternalServerError, match="no replica of stage 'painter' is up"):
            ask(pipeline.head.port)
        prometheus.wait_for("OmniRequestsUnavailable")
    finally:
        os.kill(replica, signal.SIGCONT)
    eventually(lambda: not prometheus.firing(), "an end of it", 90)


def test_a_head_that_is_gone_is_told_of(prometheus: Prometheus, pipeline: Pipeline) -> None:
    pipeline.head.stop(signal.SIGKILL)
    prometheus.wait_for("OmniHeadDown")
