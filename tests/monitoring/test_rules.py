"""The rules by themselves: Prometheus' own tool reads them and runs the stories of the alerts."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from omni_operator.planning.manifests.monitors import scrape_endpoint
from tests.charts.test_chart import CHART, documents

from .alerts import STORIES, Series

ROOT = Path(__file__).parents[2]
RULES = CHART / "files/rules.yaml"
RUNBOOKS = ROOT / "docs/runbooks"
BEGINNING = "https://github.com/omnipipeline/omnipipeline/blob/main/docs/runbooks/"
CONTENT = yaml.safe_load(RULES.read_text())
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in CONTENT["groups"] for rule in group["rules"] if "alert" in rule
}
MINUTES = range(5, 31, 5)


def run(promtool: str, *arguments: str) -> None:
    done = subprocess.run([promtool, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def told(series: Series, tests: list[dict[str, Any]]) -> dict[str, Any]:
    given = [{"series": name, "values": values} for name, values in series.items()]
    return {"interval": "1m", "input_series": given, "alert_rule_test": tests}


def test_prometheus_reads_the_rules(promtool: str) -> None:
    run(promtool, "check", "rules", str(RULES))


@pytest.mark.parametrize("alert", STORIES)
def test_an_alert_fires_when_it_should_and_only_then(alert: str, promtool: str, tmp_path: Path) -> None:
    story, rule = STORIES[alert], ALERTS[alert]
    summary = re.sub(
        r"{{ \$labels\.(\w+) }}", lambda found: story.labels.get(found[1], ""), rule["annotations"]["summary"]
    )
    annotations = {**rule["annotations"], "summary": summary, "description": story.says}
    expected = [{"exp_labels": {**story.labels, **rule["labels"]}, "exp_annotations": annotations}]
    fires = [{"eval_time": f"{story.at}m", "alertname": alert, "exp_alerts": expected}]
    quiet = [{"eval_time": f"{minute}m", "alertname": alert, "exp_alerts": []} for minute in MINUTES]
    tests = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [told(story.fires, fires), told(story.quiet, quiet)],
    }
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump(tests))
    run(promtool, "test", "rules", str(file))


def test_every_alert_has_a_story() -> None:
    assert set(STORIES) == set(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_a_runbook_that_says_what_to_do(alert: str) -> None:
    assert ALERTS[alert]["annotations"]["runbook_url"] == f"{BEGINNING}{alert}.md"
    page = (RUNBOOKS / f"{alert}.md").read_text()
    assert re.findall(r"^#+ (.*)", page, re.MULTILINE) == [
        alert, "What it means", "What users see", "How to look", "What to do",
    ]  # fmt: skip
    assert "```console\n$ " in page
    assert f"runbooks/{alert}.md" in (ROOT / "mkdocs.yml").read_text()


def test_no_runbook_is_of_an_alert_that_is_gone() -> None:
    assert {page.stem for page in RUNBOOKS.glob("*.md")} == {*ALERTS, "index"}


def monitoring(**values: Any) -> dict[tuple[str, str], dict[str, Any]]:
    made = documents({"monitoring": values})
    return {(one["kind"], one["metadata"]["name"]): one for one in made if one["kind"] in KINDS}


KINDS = ("PodMonitor", "PrometheusRule", "ConfigMap")


def test_nothing_of_it_is_made_where_it_is_not_asked_for() -> None:
    assert monitoring() == {}


def test_the_chart_gives_the_rules_as_they_are() -> None:
    made = monitoring(rules={"enabled": True, "labels": {"release": "ours"}})
    (rule,) = made.values()
    assert rule["spec"] == CONTENT
    assert rule["metadata"]["labels"]["release"] == "ours"


def test_the_runbooks_may_be_elsewhere() -> None:
    (rule,) = monitoring(rules={"enabled": True, "runbooks": "https://wiki.example/omni/"}).values()
    urls = [
        one["annotations"]["runbook_url"]
        for group in rule["spec"]["groups"]
        for one in group["rules"]
        if "alert" in one
    ]
    assert urls == [f"https://wiki.example/omni/{alert}.md" for alert in ALERTS]


def test_monitors_look_where_the_operator_serves() -> None:
    asked = {"podMonitors": {"enabled": True}}
    name = ("PodMonitor", "omnipipeline-pipelines")
    assert monitoring(**asked)[name]["spec"]["namespaceSelector"] == {"any": True}
    made = documents({"monitoring": asked, "watchNamespaces": ["a", "b"]})
    found = {one["metadata"]["name"]: one["spec"]["namespaceSelector"] for one in made if one["kind"] == "PodMonitor"}
    assert found == {
        "omnipipeline": {"matchNames": ["omni-system"]},
        "omnipipeline-pipelines": {"matchNames": ["a", "b"]},
    }


def test_a_pipelines_own_monitor_reads_its_pods_as_the_charts_does() -> None:
    made = monitoring(podMonitors={"enabled": True, "interval": "5s"})["PodMonitor", "omnipipeline-pipelines"]
    assert made["spec"]["podMetricsEndpoints"] == [{**scrape_endpoint(), "interval": "5s"}]
