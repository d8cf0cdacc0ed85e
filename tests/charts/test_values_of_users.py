"""The chart in other hands: as a dependency of another chart; with images, names, labels and proxies of its users."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_python import Chart

from tests.charts.test_chart import CHART, documents, operator, parsed, pods, rendered


def platform(folder: Path, values: dict[str, Any], **dependency: str) -> list[dict[str, Any]]:
    """What a chart renders that depends on this one."""
    chart = folder / "platform"
    (chart / "templates").mkdir(parents=True)
    shutil.copytree(CHART, chart / "charts/omnipipeline")
    entry = {"name": "omnipipeline", "version": "0.1.0", **dependency}
    about = {"apiVersion": "v2", "name": "platform", "version": "0.1.0", "dependencies": [entry]}
    (chart / "Chart.yaml").write_text(yaml.safe_dump(about))
    (chart / "values.yaml").write_text("")
    with Chart.load(chart) as loaded:
        loaded.validate_schema(values)
        files = loaded.render(values, name="platform", namespace="apps")
    return parsed(files)


@pytest.mark.parametrize("is_enabled", [True, False])
def test_a_condition_of_another_chart_switches_it(tmp_path: Path, is_enabled: bool) -> None:
    values = {"omnipipeline": {"enabled": is_enabled}}
    assert bool(platform(tmp_path, values, condition="omnipipeline.enabled")) is is_enabled


@pytest.mark.parametrize("is_enabled", [True, False])
def test_a_tag_of_another_chart_switches_it(tmp_path: Path, is_enabled: bool) -> None:
    made = platform(tmp_path, {"tags": {"ai": is_enabled}}, tags=["ai"])  # type: ignore[arg-type]
    assert bool(made) is is_enabled


def test_an_alias_has_objects_and_pods_of_its_own(tmp_path: Path) -> None:
    (one,) = (each for each in platform(tmp_path / "a", {}) if each["kind"] == "Deployment")
    (other,) = (each for each in platform(tmp_path / "b", {}, alias="second") if each["kind"] == "Deployment")
    assert one["metadata"]["name"] != other["metadata"]["name"]
    selector = one["spec"]["selector"]["matchLabels"].items()
    assert not selector <= other["spec"]["template"]["metadata"]["labels"].items()


def test_global_values_of_another_chart_count(tmp_path: Path) -> None:
    values = {"global": {"imageRegistry": "mirror:5000/", "imagePullSecrets": ["a", {"name": "b"}], "other": [1]}}
    (operator,) = (each for each in platform(tmp_path, values) if each["kind"] == "Deployment")
    spec = operator["spec"]["template"]["spec"]
    assert spec["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}]
    assert spec["containers"][0]["image"] == "mirror:5000/omnipipeline/operator:0.1.0"
    assert "mirror:5000/omnipipeline/worker:0.1.0" in spec["containers"][0]["args"]


# ---- values

DIGEST = f"sha256:{'a1' * 32}"


@pytest.mark.parametrize("tag", ["", "7"])
def test_a_digest_selects_the_image(tag: str) -> None:
    images = {key: {"tag": tag, "digest": DIGEST} for key in ("image", "workerImage")}
    suffix = f"{tag and f':{tag}'}@{DIGEST}"
    for pod in pods(images).values():
        assert pod["spec"]["containers"][0]["image"] == f"ghcr.io/omnipipeline/operator{suffix}"
    assert f"ghcr.io/omnipipeline/worker{suffix}" in operator(rendered(images))["args"]


def not_texts(node: Any, path: str = "") -> Iterator[str]:
    """The paths of all values that are neither texts nor containers."""
    if isinstance(node, dict):
        for key, value in node.items():
            assert isinstance(key, str), f"{path}: {key!r}"
            yield from not_texts(value, f"{path}.{key}")
    elif isinstance(node, list):
        for value in node:
            yield from not_texts(value, path)
    elif not isinstance(node, str):
        yield path


EVERYTHING: dict[str, Any] = {
    "monitoring": {
        "podMonitors": {"enabled": True, "labels": {"app.kubernetes.io/instance": "1", "release": "2"}},
        "rules": {"enabled": True, "labels": {"app.kubernetes.io/name": "3"}},
        "dashboard": {"enabled": True, "labels": {"app.kubernetes.io/version": "4"}, "annotations": {"a": "true"}},
    },
    "operatorPolicy": "always",
}


@pytest.mark.parametrize("name", ["123", "1e3", "true", "null", "on", "2001-01-01", "0x1f", "1-2"])
@pytest.mark.parametrize("namespaces", [[], ["007", "true"]])
def test_names_that_look_like_numbers_stay_texts(name: str, namespaces: list[str]) -> None:
    own = {
        "imagePullSecrets": [name],
        "priorityClassName": name,
        "serviceAccount": {"name": name},
        "podLabels": {"a": name},
    }
    usual = {path for each in documents(EVERYTHING) for path in not_texts(each)}
    with Chart.load(CHART) as chart:
        values = {**EVERYTHING, **own, "podLabels": {"a": name}, "watchNamespaces": namespaces}
        chart.validate_schema(values)
        files = chart.render(values, name=name, namespace=name)
    found = parsed(files)
    assert {path for each in found for path in not_texts(each)} <= usual
    assert {each["metadata"].get("namespace", name) for each in found} <= {name, *namespaces}
    (pod,) = (each["spec"]["template"]["spec"] for each in found if each["kind"] == "Deployment")
    assert (pod["serviceAccountName"], pod["priorityClassName"]) == (name, name)
    assert pod["imagePullSecrets"] == [{"name": name}]


def test_labels_of_the_values_are_what_others_select_by() -> None:
    monitors = [each for each in documents(EVERYTHING) if each["kind"] == "PodMonitor"]
    assert len(monitors) == 2
    for each in monitors:
        assert each["metadata"]["labels"]["app.kubernetes.io/instance"] == "1"
        assert each["metadata"]["labels"]["release"] == "2"


def test_proxies_reach_every_pod_and_never_stand_before_the_api_server() -> None:
    values = {
        "proxy": {"https": "http://proxy:3128", "exceptions": ["10.0.0.0/8"]},
        "env": [{"name": "A", "value": "1"}],
    }
    for pod in pods(values).values():
        env = {each["name"]: each["value"] for each in pod["spec"]["containers"][0]["env"]}
        assert env["HTTPS_PROXY"] == "http://proxy:3128"
        assert {"127.0.0.1", ".svc", "$(KUBERNETES_SERVICE_HOST)", "10.0.0.0/8"} <= set(env["NO_PROXY"].split(","))
        assert env["A"] == "1"
        assert "HTTP_PROXY" not in env


def test_a_variable_of_its_own_overrides_a_proxy() -> None:
    values = {"proxy": {"https": "http://proxy:3128"}, "env": [{"name": "NO_PROXY", "value": "*"}]}
    env = operator(rendered(values))["env"]
    assert [each["value"] for each in env if each["name"] == "NO_PROXY"] == ["*"]
    assert len({each["name"] for each in env}) == len(env)
