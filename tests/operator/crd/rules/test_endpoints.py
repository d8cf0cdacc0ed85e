"""A stage that is a server outside the pipeline has no field that is about replicas."""

from typing import Any

import pytest

from omni_operator.crd.parsing import parse
from omni_operator.crd.problems import InvalidSpec
from omni_operator.crd.spec.stage import Stage
from tests.operator.crd.manifest_parts import EXTERNAL, STAGE
from tests.operator.crd.rules.cel import violations
from tests.operator.edits import edited

OF_REPLICAS: dict[str, Any] = {
    "task": "generate",
    "model": {"source": "builtin://digits"},
    "load": {"dtype": "bfloat16"},
    "loras": [{"name": "ink", "source": "/ink"}],
    "cache": {"mode": "skip"},
    "promptCacheSize": "1Mi",
    "replicas": 1,
    "autoscaling": {"maxReplicas": 2},
    "localReplicas": 2,
    "accelerator": {},
    "parallelism": {"cfg": 2},
    "scheduling": {"maxNumSeqs": 3},
    "rollout": {"maxSurge": 1},
    "drain": {"timeoutSeconds": 9},
    "startupTimeoutSeconds": 60,
    "shmSize": "1Gi",
    "resources": {"requests": {"cpu": 1}},
    "tolerations": [{"key": "a"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [{"topologyKey": "zone"}],
    "podLabels": {"a": "b"},
    "podAnnotations": {"a": "b"},
    "env": [{"name": "A", "value": "b"}],
    "extraArgs": ["--log-level=debug"],
    "template": {"spec": {"hostNetwork": True}},
}
"""A value of each field of a stage that is about its replicas."""
UNKNOWN_TO_CEL = ("affinity", "template")


def test_every_field_of_a_stage_is_about_replicas_or_about_servers_too() -> None:
    fields = {field.alias or name for name, field in Stage.model_fields.items()}
    assert fields == {*OF_REPLICAS, "name", "engine", "endpoint", "input", "system", "maxTokens"}


@pytest.mark.parametrize("key", OF_REPLICAS)
def test_a_server_has_nothing_that_is_about_replicas(digits: dict[str, Any], key: str) -> None:
    manifest = edited(digits, {"spec.stages": [{**EXTERNAL, key: OF_REPLICAS[key]}, STAGE], "spec.head": {}})
    with pytest.raises(InvalidSpec) as caught:
        parse(manifest)
    path = f"spec.stages[0].{key}"
    assert f"{path}: is about replicas" in str(caught.value)
    assert [problem.path for problem in caught.value.problems if not problem.path.startswith(path)] == []
    assert key in UNKNOWN_TO_CEL or path in violations(manifest)
