"""Manifests that do not match the types, and the messages about them."""

from typing import Any

import pytest

from omni_operator.crd.parsing import parse
from omni_operator.crd.problems import InvalidSpec
from tests.operator.crd.manifest_parts import THINKER
from tests.operator.edits import REMOVED, edited

REFUSED_BY_TYPES = {
    "a negative count": ({"spec.stages.0.replicas": -1}, "spec.stages[0].replicas: -1 is negative; expected a whole"),
    "a count below its bound": ({"spec.stages.0.localReplicas": 0}, "spec.stages[0].localReplicas: 0 is below 1;"),
    "a count above its bound": (
        {"spec.head.localReplicas": 99},
        "spec.head.localReplicas: 99 is above 16; expected 16",
    ),
    "a count in quotes": ({"spec.replicas": "2"}, 'spec.replicas: "2" is not a whole number; expected one, like 2'),
    "a truth value for a count": ({"spec.replicas": True}, "spec.replicas: true is not a whole number"),
    "a fraction for a count": ({"spec.replicas": 1.5}, "spec.replicas: 1.5 is not a whole number"),
    "a misspelt key": (
        {"spec.stages.0.replica": 2},
        "spec.stages[0].replica: is not a known key; did you mean 'replic",
    ),
    "a key in snake case": ({"spec.head.local_replicas": 2}, "did you mean 'localReplicas'?"),
    "a key that resembles none": (
        {"spec.head.colour": 2},
        "env, extraArgs, template, stage, localReplicas",
    ),
    "a misspelt choice": (
        {"spec.loadBalancing.policy": "round-robbin"},
        'spec.loadBalancing.policy: "round-robbin" is not known; expected one of: random, round-robin,'
        " least-queue-length, power-of-two; did you mean 'round-robin'?",
    ),
    "a misspelt value of a mapping": (
        {"spec.stages.0.load": {"componentDtypes": {"vae": "float31"}}},
        'spec.stages[0].load.componentDtypes.vae: "float31" is not known; expected one of: auto, float32, bfloat16,'
        " float16; did you mean 'float32'?",
    ),
    "a misspelt backend of quantization": (
        {"spec.stages.0.load": {"quantization": {"transformer": {"backend": "torcha"}}}},
        'spec.stages[0].load.quantization.transformer.backend: "torcha" is not known; expected one of: torchao,',
    ),
    "a size to warm up that is none": (
        {"spec.stages.0.load": {"warmUp": {"sizes": ["large"]}}},
        'spec.stages[0].load.warmUp.sizes[0]: "large" has the wrong form; expected image sizes, as WIDTHxHEIGHT',
    ),
    "a name that starts with a digit": (
        {"metadata.name": "7s"},
        'metadata.name: "7s" has the wrong form; expected name',
    ),
    "a name too long for a Service": ({"metadata.name": "x" * 51}, "metadata.name: "),
    "a word for autoscaling": (
        {"spec.stages.0.autoscaling": "external"},
        'spec.stages[0].autoscaling: "external" is not a mapping; expected keys and values (mode, minReplicas,',
    ),
    "an unknown engine": ({"spec.stages.0.engine": "magic"}, "expected one of: autoregressive, diffusion"),
    "an unknown task": ({"spec.stages": [{**THINKER, "task": "think"}]}, "expected one of: generate, encode"),
    "an unknown input": ({"spec.stages.0.input": "smoke"}, "expected one of: text, hidden-states"),
    "a stage's model without a scheme": ({"spec.stages.0.model": {"source": "digits"}}, "spec.stages[0].model.source"),
    "no model": ({"spec.model": REMOVED}, "spec.model: is missing; expected the model that every stage serves"),
    "a model without a scheme": ({"spec.model.source": "digits"}, "like builtin://digits"),
    "no stages": ({"spec.stages": []}, "spec.stages: is empty"),
    "stages that are no list": (
        {"spec.stages": {"painter": {}}},
        "is not a list; expected items that start with a dash",
    ),
    "a head that is a list": (
        {"spec.head": []},
        "spec.head: [] is not a mapping; expected keys and values (resources, toler",
    ),
    "a spec that is missing": ({"spec": REMOVED}, "spec: is missing"),
    "another kind": ({"kind": "Pipeline"}, 'kind: "Pipeline" is not known; expected OmniPipeline'),
    "another version": ({"apiVersion": "omnipipeline.dev/v1"}, "expected omnipipeline.dev/v1alpha1"),
    "a stage name that is no label": ({"spec.stages.0.name": "Painter_1"}, "lower-case letters, digits and dashes"),
    "no process at all": ({"spec.stages.0.parallelism.cfg": 0}, "spec.stages[0].parallelism.cfg: 0"),
    "a percentage of no form": ({"spec.stages.0.rollout": {"maxSurge": "5"}}, "or a percentage like '25%'"),
    "a batch of nothing": (
        {"spec.stages.0.scheduling.maxNumSeqs": 0},
        "expected 'auto' or a whole number of 1 or more",
    ),
    "an interval without a unit": (
        {"spec.monitoring.podMonitor": {"interval": "15"}},
        'spec.monitoring.podMonitor.interval: "15" has the wrong form; expected time between two scrapes, like 15s',
    ),
    "a certificate of no Secret": ({"spec.api.tls": {}}, "spec.api.tls.secretName: is missing; expected secret of the"),
    "an origin with a path": (
        {"spec.api.corsOrigins": ["https://example.org/app"]},
        'spec.api.corsOrigins[0]: "https://example.org/app" has the wrong form',
    ),
    "a limit of nothing": ({"spec.api.limits.steps": 0}, "spec.api.limits.steps: 0 is below 1; expected a whole"),
    "a misspelt limit": (
        {"spec.api.limits.step": 9},
        "spec.api.limits.step: is not a known key; did you mean 'steps'?",
    ),
    "a model in an image without tag and digest": (
        {"spec.model.source": "oci://localhost/model"},
        'spec.model.source: "oci://localhost/model" has the wrong form; expected where the weights are',
    ),
    "a model in an image without registry": (
        {"spec.model.source": "oci://model:1"},
        'spec.model.source: "oci://model:1" has the wrong form; expected where the weights are',
    ),
    "a model in an image with half a digest": (
        {"spec.model.source": "oci://localhost/model@sha256:0af"},
        "has the wrong form; expected where the weights are",
    ),
    "no room for videos": ({"spec.videos.maxSize": "0Gi"}, 'spec.videos.maxSize: "0Gi": leaves room for nothing'),
    "no room for a request": ({"spec.api.limits.bodySize": "0"}, 'spec.api.limits.bodySize: "0": leaves room for'),
    "no room for any request": ({"spec.api.limits.totalBodySize": "0.0"}, '"0.0": leaves room for nothing; expected'),
    "half a byte": ({"spec.api.limits.bodySize": "0.5"}, '"0.5": leaves room for nothing; expected 1 byte or more'),
    "a size of no form": (
        {"spec.stages.0.shmSize": "big"},
        'spec.stages[0].shmSize: "big" has the wrong form; expected size of /dev/shm',
    ),
}


@pytest.mark.parametrize("row", REFUSED_BY_TYPES)
def test_refused_with_field_value_and_remedy(digits: dict[str, Any], row: str) -> None:
    edits, expected = REFUSED_BY_TYPES[row]
    with pytest.raises(InvalidSpec) as caught:
        parse(edited(digits, edits))
    assert expected in str(caught.value)
