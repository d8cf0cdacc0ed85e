"""What docs/observability.md and the runbooks have people write and ask works: values, a configuration, queries."""

from pathlib import Path

import pytest
import yaml

from omni_operator.controller.metrics import OperatorMetrics
from tests.charts.test_chart import documents
from tests.docs.test_docs import PROJECT, blocks

from .prometheus import jobs
from .test_rules import ALERTS, RULES, run

PAGE = PROJECT / "docs/observability.md"
VALUES, CONFIGURATION = blocks(PAGE, "yml")


def test_the_values_make_all_of_it() -> None:
    made = [one["kind"] for one in documents(yaml.safe_load(VALUES))]
    assert [made.count(kind) for kind in ("PodMonitor", "PrometheusRule", "ConfigMap")] == [2, 1, 1]


def test_prometheus_takes_the_configuration(promtool: str, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(RULES.read_text())
    config = yaml.safe_load(CONFIGURATION)
    for job in config["scrape_configs"]:
        assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]  # which Debian builds it without
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(config))
    run(promtool, "check", "config", str(tmp_path / "prometheus.yaml"))


def test_the_configuration_relabels_as_the_monitors_do() -> None:
    monitors = {job["job_name"]: job for job in jobs([])}
    for job in yaml.safe_load(CONFIGURATION)["scrape_configs"]:
        monitor = monitors.pop(job["job_name"])
        assert job.get("metric_relabel_configs", []) == monitor["metric_relabel_configs"]
        assert job.get("tls_config", {}) == monitor["tls_config"]
        assert all(rule in job["relabel_configs"] for rule in monitor["relabel_configs"])
    assert not monitors


def test_every_alert_is_in_the_table_of_what_happens() -> None:
    text = PAGE.read_text()
    assert [alert for alert in ALERTS if f"`{alert}`" not in text] == []


def test_the_operators_metrics_are_in_the_reference() -> None:
    reference = (PROJECT / "docs/reference.md").read_text()
    names = [one.name for one in OperatorMetrics().registry.collect() if one.name.startswith("omni_")]
    assert names
    assert [name for name in names if f"`{name}" not in reference] == []


@pytest.mark.parametrize("page", sorted((PROJECT / "docs/runbooks").glob("Omni*.md")), ids=lambda page: page.stem)
def test_the_queries_of_a_runbook_are_queries(page: Path, promtool: str, tmp_path: Path) -> None:
    queries = [line for block in blocks(page, "promql") for line in block.splitlines()]
    rules = [{"record": f"of:query:{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": page.stem, "rules": rules}]}))
    run(promtool, "check", "rules", str(file))
