"""Manifests that are valid. Every problem is reported, and no value breaks the parser."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_operator.crd.parsing import parse
from omni_operator.crd.problems import InvalidSpec, Problem
from omni_operator.crd.spec.pipeline import OmniPipeline
from tests.operator.crd.manifest_parts import ENCODER, EXTERNAL, PAINTER, STAGE, THINKER
from tests.operator.edits import REMOVED, edited

ACCEPTED = {
    "nothing but what is required": {"spec": {"model": {"source": "builtin://digits"}, "stages": [STAGE]}},
    "a model on the hub, pinned": {"spec.model": {"source": "hf://Qwen/Qwen-Image", "revision": "main"}},
    "a model on a volume": {"spec.model.source": "pvc://weights/qwen/image"},
    "a model in an image, by its tag": {
        "spec.model": {
            "source": "oci://registry.example.com:5000/models/team/sd-xl_base.v1:2024.1-rc_2",
            "pullPolicy": "Always",
            "pullSecrets": ["registry"],
        }
    },
    "a model in an image, by its digest": {"spec.model.source": f"oci://localhost/model@sha256:{'0af' * 21}0"},
    "a model in an image, by both": {"spec.model.source": f"oci://localhost/model:1@sha256:{'0af' * 21}0"},
    "a model in a folder": {"spec.model.source": "/models/qwen"},
    "percentages": {"spec.stages.0.rollout": {"maxUnavailable": "25%", "maxSurge": "0%"}},
    "a fixed batch": {"spec.stages.0.scheduling.maxNumSeqs": 8},
    "a process for each device": {"spec.stages.0.accelerator.count": 2, "spec.stages.0.parallelism.cfg": 2},
    "rows and sequences divided": {
        "spec.stages.0.accelerator.count": 4,
        "spec.stages.0.parallelism": {"cfg": 2, "ulysses": 2},
        "spec.stages.0.load": {"attention": "native", "quantization": {"transformer": {"backend": "quanto"}}},
    },
    "a ring": {
        "spec.stages.0.accelerator.count": 2,
        "spec.stages.0.parallelism": {"ring": 2},
        "spec.stages.0.load": {"attention": "flash"},
    },
    "weights divided": {
        "spec.stages.0.accelerator.count": 2,
        "spec.stages.0.parallelism": {"tensor": 2},
        "spec.stages.0.load": {"quantization": {"text_encoder": {"backend": "quanto"}}},
    },
    "processes on the CPU": {"spec.stages.0.accelerator": REMOVED, "spec.stages.0.parallelism.cfg": 2},
    "a thinker and a painter": {"spec.stages": [THINKER, PAINTER]},
    "a thinker whose words a painter reads": {"spec.stages": [THINKER, {**STAGE, "input": "text"}]},
    "text where nothing is said": {"spec.stages": [THINKER, STAGE]},
    "an encoder and a painter": {"spec.stages": [ENCODER, PAINTER]},
    "a language model alone": {"spec.stages": [{**THINKER, "task": "generate"}], "spec.head": {}},
    "a rewriter, a thinker and a painter": {
        "spec.stages": [{**THINKER, "name": "rewriter"}, {**THINKER, "input": "text"}, PAINTER]
    },
    "a server outside the pipeline, and a painter": {
        "spec.stages": [{**EXTERNAL, "system": "Be brief.", "maxTokens": 9}, STAGE],
        "spec.head": {"localReplicas": 1},
    },
    "a server outside the pipeline alone": {"spec.stages": [EXTERNAL], "spec.head": {}},
    "a server outside the pipeline, with all that it can have": {
        "spec.stages": [
            THINKER,
            {
                **EXTERNAL,
                "input": "text",
                "endpoint": {
                    "url": "https://[::1]:8443/some/api%20v1/",
                    "model": "org/a:b",
                    "apiKeySecretRef": {"name": "vllm"},
                    "timeoutSeconds": 5,
                    "retries": 0,
                },
            },
        ],
        "spec.head": {},
    },
    "a model of a stage's own": {
        "spec.stages": [{**THINKER, "model": {"source": "hf://Qwen/Qwen3-0.6B", "revision": "main"}}, PAINTER]
    },
    "layers on a device each": {
        "spec.stages": [{**THINKER, "accelerator": {"count": 2}, "parallelism": {"pipeline": 2}}, PAINTER]
    },
    "the less loaded of two": {"spec.loadBalancing.policy": "power-of-two"},
    "a writer that is told how to write": {"spec.stages": [{**THINKER, "system": "Be brief.", "maxTokens": 9}, STAGE]},
    "a cache that is made": {"spec.model": {"source": "hf://a/b", "cache": {"size": "1.5Ti", "retain": True}}},
    "a cache of the user's own": {"spec.model": {"source": "hf://a/b", "cache": {"claimName": "mine"}}},
    "devices of a class": {"spec.stages.0.accelerator": {"deviceClassName": "gpu.nvidia.com"}},
    "devices by a template of claims": {"spec.stages.0.accelerator": {"resourceClaimTemplateName": "one-gpu"}},
    "nodes, a runtime and shared memory": {
        "spec.stages.0.accelerator.nodeSelector": {"gpu": "h100"},
        "spec.stages.0.accelerator.runtimeClassName": "nvidia",
        "spec.stages.0.shmSize": "16Gi",
    },
    "an API for a web page, over HTTPS": {
        "spec.api": {
            "tls": {"secretName": "certificate"},
            "corsOrigins": ["https://example.org", "http://localhost:3000", "*"],
            "playground": False,
            "limits": {
                "pixels": 4194304,
                "steps": 50,
                "answers": 1,
                "promptLength": 500,
                "videoPixels": 8388608,
                "audioSeconds": 60,
                "bodySize": "8Mi",
                "totalBodySize": "8192Ki",
            },
        }
    },
    "videos on a volume that is made": {
        "spec.videos": {"storage": {"size": "20Gi", "retain": True}, "jobs": 1, "maxAgeHours": 1, "maxSize": "15Gi"}
    },
    "a monitor of its own": {"spec.monitoring.podMonitor": {"labels": {"release": "a"}, "interval": "15s"}},
    "a monitor that says nothing more": {"spec.monitoring.podMonitor": {}},
    "videos in a database": {"spec.videos.databaseUrlSecretRef": {"name": "database", "key": "uri"}},
    "videos on a volume of the user's own": {"spec.videos.storage": {"claimName": "mine"}},
    "a Service for the world": {
        "spec.service": {
            "type": "LoadBalancer",
            "annotations": {"a/b": "c"},
            "ipFamilyPolicy": "PreferDualStack",
            "loadBalancerClass": "example.com/internal",
            "loadBalancerSourceRanges": ["10.0.0.0/8", "fd00::/8"],
        }
    },
    "suspended and paused": {"spec.suspend": True, "spec.paused": True},
    "clients that are named": {"spec.networkPolicy": {"clients": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}},
    "a count within bounds": {"spec.stages.0.autoscaling": {"maxReplicas": 4}},
    "a count of others": {"spec.stages.0.autoscaling": {"mode": "external"}},
    "a quantity in decimals": {"spec.api.limits": {"bodySize": "1.5Mi", "totalBodySize": "2M"}},
    "null for what may be absent": {"spec.stages.0.replicas": None, "spec.stages.0.accelerator": None},
    "no replica at all": {"spec.replicas": 0},
    "what a cluster adds": {"metadata.managedFields": [], "metadata.labels": {"a": "b"}, "status": {"replicas": 2}},
}


@pytest.mark.parametrize("row", ACCEPTED)
def test_accepted(digits: dict[str, Any], row: str) -> None:
    assert isinstance(parse(edited(digits, ACCEPTED[row])), OmniPipeline)


def test_every_problem_is_reported_at_once(digits: dict[str, Any]) -> None:
    wrong = edited(digits, {"spec.replicas": -1, "spec.stages.0.engine": "magic", "spec.colour": "red"})
    with pytest.raises(InvalidSpec) as caught:
        parse(wrong)
    assert [problem.path for problem in caught.value.problems] == [
        "spec.replicas",
        "spec.stages[0].engine",
        "spec.colour",
    ]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


places = st.sampled_from(
    [
        "spec",
        "spec.model",
        "spec.model.source",
        "spec.replicas",
        "spec.head",
        "spec.head.template",
        "spec.image.pullSecrets",
        "spec.stages",
        "spec.stages.0",
        "spec.stages.0.name",
        "spec.stages.0.accelerator",
        "spec.stages.0.rollout.maxSurge",
        "spec.stages.0.template",
        "spec.stages.0.template.spec.containers",
        "metadata",
        "metadata.name",
    ]
)


@given(place=places, value=json_values)
def test_no_value_anywhere_breaks_the_parser(place: str, value: Any) -> None:
    manifest = {
        "apiVersion": "omnipipeline.dev/v1alpha1",
        "kind": "OmniPipeline",
        "metadata": {"name": "digits"},
        "spec": {"model": {"source": "builtin://digits"}, "stages": [dict(STAGE)]},
    }
    problems: tuple[Problem, ...] | None = None
    try:
        parse(edited(manifest, {place: value}))
    except InvalidSpec as invalid:
        problems = invalid.problems
    assert problems is None or all(problem.path and problem.message for problem in problems)
    assert problems != ()


def nested(levels: int) -> dict[str, Any]:
    """A pod template with this many levels."""
    template: dict[str, Any] = {}
    for _ in range(levels):
        template = {"spec": template}
    return template


def test_a_spec_that_is_nested_too_deeply_is_rejected(digits: dict[str, Any]) -> None:
    for levels in (101, 2_000, 9_900):
        manifest = {**digits, "spec": {**digits["spec"], "head": {"template": nested(levels)}}}
        with pytest.raises(InvalidSpec, match="spec: has more than 100 levels below it"):
            parse(manifest)
    parse(edited(digits, {"spec.head": {"template": {"spec": {"affinity": nested(90)}}}}))
