"""A head that speaks HTTPS, scraped by a real Prometheus that has what the chart's monitors say and what the operator
writes at the pods."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.operator.rendered import pod
from tests.worker.api.heads import head
from tests.worker.certificates import certificate
from tests.worker.serving import Process, eventually

from .prometheus import Prometheus, Target

pytestmark = pytest.mark.processes
EXAMPLE = Path(__file__).parents[2] / "examples/digits-public.yaml"


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Process]:
    """A head without replicas, with a certificate that is not for its pod's address."""
    chain, key = certificate(tmp_path, "digits-public")
    with head("builtin://digits", "--ssl-certfile", str(chain), "--ssl-keyfile", str(key), replicas=0) as process:
        yield process


def test_prometheus_scrapes_a_head_that_speaks_https(prometheus_program: str, serving: Process, tmp_path: Path) -> None:
    metadata: dict[str, Any] = pod(yaml.safe_load(EXAMPLE.read_text()), "digits-public-head")["metadata"]

    def target(name: str, **annotations: str) -> Target:
        return Target(serving.port, "gallery", name, metadata["labels"], annotations)

    # The second has not what the operator writes: Prometheus must not get by without it.
    targets = [target("annotated", **metadata["annotations"]), target("bare")]
    prometheus = Prometheus(prometheus_program, tmp_path, targets)
    try:
        eventually(lambda: len(prometheus.query("up")) == 2, "a first scrape")
        up = {one["metric"]["pod"]: one["value"][1] for one in prometheus.query("up")}
        assert up == {"annotated": "1", "bare": "0"}
        sample = prometheus.query('{__name__=~"omni_.+"}')[0]
        assert sample["metric"]["pipeline"] == "digits-public"
        assert sample["metric"]["role"] == "head"
    finally:
        prometheus.close()
