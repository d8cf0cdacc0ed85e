"""What a manifest may say, and what is said about one that may not."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_operator.crd.parsing import parse
from omni_operator.crd.problems import InvalidSpec, Problem
from omni_operator.crd.spec.pipeline import OmniPipeline
from tests.operator.edits import REMOVED, edited

STAGE = {"name": "painter", "engine": "diffusion"}
PAINTER = {**STAGE, "input": "hidden-states"}
THINKER = {"name": "thinker", "engine": "autoregressive"}
ENCODER = {**THINKER, "task": "encode"}
BAD_TEMPLATE = {"spec": {"containers": [{"env": []}]}}

REFUSED = {
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
    "a key that resembles none": ({"spec.head.colour": 2}, "expected one of: stage, localReplicas, template"),
    "a misspelt choice": (
        {"spec.loadBalancing.policy": "round-robbin"},
        'spec.loadBalancing.policy: "round-robbin" is not known; expected one of: random, round-robin,'
        " least-queue-length, power-of-two; did you mean 'round-robin'?",
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
        "spec.head: [] is not a mapping; expected keys and values (stage, local",
    ),
    "a spec that is missing": ({"spec": REMOVED}, "spec: is missing"),
    "another kind": ({"kind": "Pipeline"}, 'kind: "Pipeline" is not known; expected OmniPipeline'),
    "another version": ({"apiVersion": "omnipipeline.dev/v1"}, "expected omnipipeline.dev/v1alpha1"),
    "two stages of one name": ({"spec.stages.1": STAGE}, "'painter' is already the name of spec.stages[0]"),
    "a stage after a painter": (
        {"spec.stages.1": {**STAGE, "name": "painter2"}},
        "spec.stages[1]: 'painter2' comes after 'painter', a diffusion stage, whose pictures no stage can take; make"
        " 'painter' the last stage",
    ),
    "an input of the first stage": (
        {"spec.stages.0.input": "text"},
        "spec.stages[0].input: is text, and the first stage takes the request itself; remove it",
    ),
    "text of a stage that only encodes": (
        {"spec.stages": [ENCODER, STAGE]},
        "spec.stages[1].input: is text, and 'thinker' before it only encodes and gives no text; set input to"
        " hidden-states, or the task of 'thinker' to generate",
    ),
    "text of an encoder for a language model": (
        {"spec.stages": [ENCODER, {**THINKER, "name": "second"}], "spec.head": {}},
        "'thinker' before it only encodes and gives no text; set the task of 'thinker' to generate",
    ),
    "hidden states for a language model": (
        {"spec.stages": [THINKER, {**THINKER, "name": "second", "input": "hidden-states"}], "spec.head": {}},
        "spec.stages[1].input: is hidden-states, and an autoregressive stage takes text only; set it to text",
    ),
    "nothing but encoding": (
        {"spec.stages": [ENCODER], "spec.head": {}},
        "spec.stages[0].task: is encode, and no stage comes after 'thinker', so that no request would get an answer",
    ),
    "a task of a painter": (
        {"spec.stages.0.task": "generate"},
        "spec.stages[0].task: is generate, and tasks are for autoregressive stages; remove it",
    ),
    "guidance divided in a language model": (
        {"spec.stages": [{**THINKER, "parallelism": {"cfg": 2}}], "spec.head": {}},
        "spec.stages[0].parallelism.cfg: is 2, and an autoregressive stage has no guidance to divide; use"
        " parallelism.pipeline",
    ),
    "layers of a painter spread": (
        {"spec.stages.0.parallelism": {"pipeline": 2}},
        "spec.stages[0].parallelism.pipeline: is 2, and the layers of a diffusion stage are not spread; use"
        " parallelism.cfg",
    ),
    "whole requests of a language model": (
        {"spec.stages": [{**THINKER, "scheduling": {"mode": "request"}}], "spec.head": {}},
        "spec.stages[0].scheduling.mode: is request, and an autoregressive stage always runs token by token; remove",
    ),
    "devices that no layer is on": (
        {"spec.stages": [{**THINKER, "accelerator": {"count": 2}}], "spec.head": {}},
        "spec.stages[0].parallelism.pipeline: is 1, and accelerator.count is 2",
    ),
    "a revision of a stage's built-in model": (
        {"spec.stages.0.model": {"source": "builtin://digits", "revision": "main"}},
        "spec.stages[0].model.revision: is only for models of the hub",
    ),
    "a stage with the head's name": ({"spec.stages.0.name": "head", "spec.head": {}}, "give the stage another name"),
    "a stage name that is no label": ({"spec.stages.0.name": "Painter_1"}, "lower-case letters, digits and dashes"),
    "a head at an unknown stage": (
        {"spec.head.stage": "thinker"},
        "spec.head.stage: 'thinker' is not a stage; expected one of: painter",
    ),
    "a rollout that cannot move": (
        {"spec.stages.0.rollout": {"maxUnavailable": "0%", "maxSurge": 0}},
        "a rollout could never begin; set one of them to 1",
    ),
    "a device that no process uses": (
        {"spec.stages.0.accelerator.count": 2},
        "spec.stages[0].parallelism.cfg: is 1, and accelerator.count is 2",
    ),
    "a process without a device": (
        {"spec.stages.0.parallelism.cfg": 2},
        "spec.stages[0].parallelism.cfg: is 2, and accelerator.count is 1",
    ),
    "whole requests over several processes": (
        {
            "spec.stages.0.accelerator": None,
            "spec.stages.0.parallelism.cfg": 2,
            "spec.stages.0.scheduling.mode": "request",
        },
        "a request that runs whole cannot be divided; set mode to step, or cfg to 1",
    ),
    "no process at all": ({"spec.stages.0.parallelism.cfg": 0}, "spec.stages[0].parallelism.cfg: 0"),
    "a percentage of no form": ({"spec.stages.0.rollout": {"maxSurge": "5"}}, "or a percentage like '25%'"),
    "a batch of nothing": (
        {"spec.stages.0.scheduling.maxNumSeqs": 0},
        "expected 'auto' or a whole number of 1 or more",
    ),
    "a revision of a built-in model": (
        {"spec.model.revision": "main"},
        "spec.model.revision: is only for models of the hub",
    ),
    "a cache for a built-in model": (
        {"spec.model.cache": {"size": "1Gi"}},
        "spec.model.cache: is for models of the hub, and no stage takes one from there; remove it",
    ),
    "a cache of nothing": (
        {"spec.model": {"source": "hf://a/b", "cache": {}}},
        "spec.model.cache: has neither claimName nor size; give claimName for a claim of your own, or size",
    ),
    "a cache of two claims": (
        {"spec.model": {"source": "hf://a/b", "cache": {"claimName": "mine", "size": "1Gi"}}},
        "spec.model.cache: has both claimName and size",
    ),
    "a claim of the user's own that is to be retained": (
        {"spec.model": {"source": "hf://a/b", "cache": {"claimName": "mine", "retain": True}}},
        "spec.model.cache.retain: is for a claim that is made, and claimName names one of your own, 'mine'; remove one",
    ),
    "a cache of one stage": (
        {"spec.stages.0.model": {"source": "hf://a/b", "cache": {"size": "1Gi"}}},
        "spec.stages[0].model.cache: is of a single stage",
    ),
    "videos on nothing": (
        {"spec.videos.storage": {"retain": True}},
        "spec.videos.storage: has neither claimName nor size; give claimName for a claim of your own, or size",
    ),
    "videos on a claim of the user's own, of a class": (
        {"spec.videos.storage": {"claimName": "mine", "storageClass": "fast"}},
        "spec.videos.storage.storageClass: is for a claim that is made, and claimName names one of your own, 'mine'",
    ),
    "videos on a volume and in a database": (
        {"spec.videos": {"storage": {"size": "1Gi"}, "databaseUrlSecretRef": {"name": "database"}}},
        "spec.videos.databaseUrlSecretRef: names the Secret 'database', and spec.videos.storage a volume",
    ),
    "an interval without a unit": (
        {"spec.monitoring.podMonitor": {"interval": "15"}},
        'spec.monitoring.podMonitor.interval: "15" has the wrong form; expected time between two scrapes, like 15s',
    ),
    "no room for videos": (
        {"spec.videos.maxSize": "0Gi"},
        "spec.videos.maxSize: is 0Gi, which leaves room for nothing; leave it out for the default",
    ),
    "no room for a request": (
        {"spec.api.limits.bodySize": "0"},
        "spec.api.limits.bodySize: is 0, which leaves room for nothing",
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
    "a size of no form": (
        {"spec.stages.0.shmSize": "big"},
        'spec.stages[0].shmSize: "big" has the wrong form; expected size of /dev/shm',
    ),
    "words to a painter": (
        {"spec.stages.0.system": "Be brief."},
        "spec.stages[0].system: is for stages that write text, and 'painter' is a diffusion stage; remove it",
    ),
    "words to an encoder": (
        {"spec.stages": [{**ENCODER, "maxTokens": 5}, PAINTER]},
        "spec.stages[0].maxTokens: is for stages that write text, and 'thinker' is an encoder; remove it",
    ),
    "a name too long for a Service": ({"metadata.name": "x" * 60}, "metadata.name: 'xxx"),
    "a name that starts with a digit": ({"metadata.name": "7s"}, "starting with a letter"),
    "a template with a container of no name": (
        {"spec.stages.0.template": BAD_TEMPLATE},
        "spec.stages[0].template.spec.containers[0]: has no name; give it one",
    ),
    "a template with a stray key": (
        {"spec.head.template": {"env": []}},
        "spec.head.template.env: is not part of a pod template; expected one of: metadata, spec",
    ),
}

ACCEPTED = {
    "nothing but what is required": {"spec": {"model": {"source": "builtin://digits"}, "stages": [STAGE]}},
    "a model on the hub, pinned": {"spec.model": {"source": "hf://Qwen/Qwen-Image", "revision": "main"}},
    "a model on a volume": {"spec.model.source": "pvc://weights/qwen/image"},
    "a model in a folder": {"spec.model.source": "/models/qwen"},
    "percentages": {"spec.stages.0.rollout": {"maxUnavailable": "25%", "maxSurge": "0%"}},
    "a fixed batch": {"spec.stages.0.scheduling.maxNumSeqs": 8},
    "a process for each device": {"spec.stages.0.accelerator.count": 2, "spec.stages.0.parallelism.cfg": 2},
    "processes on the CPU": {"spec.stages.0.accelerator": REMOVED, "spec.stages.0.parallelism.cfg": 2},
    "a thinker and a painter": {"spec.stages": [THINKER, PAINTER]},
    "a thinker whose words a painter reads": {"spec.stages": [THINKER, {**STAGE, "input": "text"}]},
    "text where nothing is said": {"spec.stages": [THINKER, STAGE]},
    "an encoder and a painter": {"spec.stages": [ENCODER, PAINTER]},
    "a language model alone": {"spec.stages": [{**THINKER, "task": "generate"}], "spec.head": {}},
    "a rewriter, a thinker and a painter": {
        "spec.stages": [{**THINKER, "name": "rewriter"}, {**THINKER, "input": "text"}, PAINTER]
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
            "limits": {"pixels": 4194304, "steps": 50, "answers": 1, "promptLength": 500, "bodySize": "8Mi"},
        }
    },
    "videos on a volume that is made": {
        "spec.videos": {"storage": {"size": "20Gi", "retain": True}, "jobs": 1, "maxAgeHours": 1, "maxSize": "15Gi"}
    },
    "a monitor of its own": {"spec.monitoring.podMonitor": {"labels": {"release": "a"}, "interval": "15s"}},
    "a monitor that says nothing more": {"spec.monitoring.podMonitor": {}},
    "videos in a database": {"spec.videos.databaseUrlSecretRef": {"name": "database", "key": "uri"}},
    "videos on a volume of the user's own": {"spec.videos.storage": {"claimName": "mine"}},
    "a Service for the world": {"spec.service": {"type": "LoadBalancer", "annotations": {"a/b": "c"}}},
    "suspended and paused": {"spec.suspend": True, "spec.paused": True},
    "clients that are named": {"spec.networkPolicy": {"clients": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}},
    "null for what may be absent": {"spec.stages.0.replicas": None, "spec.stages.0.accelerator": None},
    "no replica at all": {"spec.replicas": 0},
    "what a cluster adds": {"metadata.managedFields": [], "metadata.labels": {"a": "b"}, "status": {"replicas": 2}},
}


@pytest.mark.parametrize("row", REFUSED)
def test_refused_with_field_value_and_remedy(digits: dict[str, Any], row: str) -> None:
    edits, expected = REFUSED[row]
    with pytest.raises(InvalidSpec) as caught:
        parse(edited(digits, edits))
    assert expected in str(caught.value)


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


def test_a_stage_takes_the_common_count_unless_it_has_its_own(digits: dict[str, Any]) -> None:
    common = parse(digits)
    assert common.replicas_of(common.spec.stages[0]) == 2
    own = parse(edited(digits, {"spec.stages.0.replicas": 0}))
    assert own.replicas_of(own.spec.stages[0]) == 0


def test_the_head_belongs_to_the_first_stage_unless_told(digits: dict[str, Any]) -> None:
    assert parse(edited(digits, {"spec.head": {}})).head_stage == 0


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
