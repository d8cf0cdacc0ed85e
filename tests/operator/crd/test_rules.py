"""Manifests that break a rule across fields, and the messages about them."""

from typing import Any

import pytest

from omni_operator.crd.parsing import parse
from omni_operator.crd.problems import InvalidSpec
from tests.operator.crd.manifest_parts import ENCODER, PAINTER, STAGE, THINKER
from tests.operator.edits import edited

BAD_TEMPLATE = {"spec": {"containers": [{"env": []}]}}

REFUSED_BY_RULES = {
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
    "no room for videos": (
        {"spec.videos.maxSize": "0Gi"},
        "spec.videos.maxSize: is 0Gi, which leaves room for nothing; leave it out for the default",
    ),
    "no room for a request": (
        {"spec.api.limits.bodySize": "0"},
        "spec.api.limits.bodySize: is 0, which leaves room for nothing",
    ),
    "no room for any request": (
        {"spec.api.limits.totalBodySize": "0"},
        "spec.api.limits.totalBodySize: is 0, which leaves room for nothing",
    ),
    "bodies that are larger than all together": (
        {"spec.api.limits": {"bodySize": "8Mi", "totalBodySize": "4096Ki"}},
        "spec.api.limits.totalBodySize: is 4096Ki, and one body may have 8Mi (bodySize)",
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


@pytest.mark.parametrize("row", REFUSED_BY_RULES)
def test_refused_with_field_value_and_remedy(digits: dict[str, Any], row: str) -> None:
    edits, expected = REFUSED_BY_RULES[row]
    with pytest.raises(InvalidSpec) as caught:
        parse(edited(digits, edits))
    assert expected in str(caught.value)
