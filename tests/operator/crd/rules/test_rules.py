"""Manifests that break a rule across fields, and the messages about them."""

from typing import Any

import pytest

from omni_operator.crd.parsing import parse
from omni_operator.crd.problems import InvalidSpec
from tests.operator.crd.manifest_parts import ENCODER, EXTERNAL, PAINTER, STAGE, THINKER
from tests.operator.edits import REMOVED, edited

BAD_TEMPLATE = {"spec": {"containers": [{"env": []}]}}

DIVIDED = {"spec.stages.0.accelerator": REMOVED, "spec.stages.0.parallelism.ulysses": 2}
WITH_PARTS = {"spec.stages.0.accelerator": REMOVED, "spec.stages.0.parallelism.tensor": 2}
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
        "spec.stages[1].input: is hidden-states, and a stage that reads and writes text takes text only; set it"
        " to text",
    ),
    "hidden states of a server": (
        {"spec.stages": [EXTERNAL, PAINTER]},
        "spec.stages[1].input: is hidden-states, and 'rewriter' before it is a server outside the pipeline, which gives"
        " only text; set it to text",
    ),
    "hidden states for a server": (
        {"spec.stages": [THINKER, {**EXTERNAL, "input": "hidden-states"}], "spec.head": {}},
        "spec.stages[1].input: is hidden-states, and a stage that reads and writes text takes text only; set it"
        " to text",
    ),
    "a server of no address": (
        {"spec.stages": [{"name": "rewriter", "engine": "openai"}, STAGE]},
        "spec.stages[0].endpoint: is missing; expected the url and the model of the server",
    ),
    "the address of a server for replicas": (
        {"spec.stages.0.endpoint": EXTERNAL["endpoint"]},
        "spec.stages[0].endpoint: belongs to the engine openai, and 'painter' is diffusion; remove it, or set the"
        " engine",
    ),
    "replicas of a server": (
        {"spec.stages": [{**EXTERNAL, "replicas": 2}, STAGE]},
        "spec.stages[0].replicas: is about replicas, and 'rewriter' is a server outside the pipeline, which has none"
        " here; remove it",
    ),
    "a server inside the head": (
        {"spec.stages": [EXTERNAL, STAGE], "spec.head": {"stage": "rewriter", "localReplicas": 1}},
        "spec.head.localReplicas: is 1, and 'rewriter' is a server outside the pipeline, which has no replicas; set it"
        " to 0, or head.stage to another stage",
    ),
    "nothing but a server, inside the head": (
        {"spec.stages": [EXTERNAL], "spec.head": {"localReplicas": 1}},
        "spec.head.localReplicas: is 1, and 'rewriter' is a server",
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
        " parallelism.cfg or ulysses",
    ),
    "sequences divided in a language model": (
        {"spec.stages": [{**THINKER, "parallelism": {"ulysses": 2}}], "spec.head": {}},
        "spec.stages[0].parallelism.ulysses: is for diffusion stages",
    ),
    "divided sequences without devices": (
        {"spec.stages.0.parallelism": {"ulysses": 2, "cfg": 2}},
        "spec.stages[0].parallelism: makes 4 processes (the product of its values), and accelerator.count is 1",
    ),
    "whole requests with divided sequences": (
        {
            "spec.stages.0.accelerator": REMOVED,
            "spec.stages.0.parallelism.ulysses": 2,
            "spec.stages.0.scheduling.mode": "request",
        },
        "spec.stages[0].parallelism.ulysses: is 2, and scheduling.mode is request",
    ),
    "weights divided in a language model": (
        {"spec.stages": [{**THINKER, "parallelism": {"tensor": 2}}], "spec.head": {}},
        "spec.stages[0].parallelism.tensor: is for diffusion stages",
    ),
    "whole requests with divided weights": (
        {**WITH_PARTS, "spec.stages.0.scheduling.mode": "request"},
        "spec.stages[0].parallelism.tensor: is 2, and scheduling.mode is request",
    ),
    "divided weights and sequences": (
        {**WITH_PARTS, "spec.stages.0.parallelism": {"tensor": 2, "ulysses": 2}},
        "spec.stages[0].parallelism: divides calls in several ways; keep one",
    ),
    "a ring without a kernel": (
        {"spec.stages.0.accelerator": REMOVED, "spec.stages.0.parallelism.ring": 2},
        "spec.stages[0].parallelism.ring: needs an attention kernel that joins parts of the keys; set load.attention",
    ),
    "a ring with a kernel that does not do": (
        {
            "spec.stages.0.accelerator": REMOVED,
            "spec.stages.0.parallelism.ring": 2,
            "spec.stages.0.load": {"attention": "native"},
        },
        "spec.stages[0].parallelism.ring: needs an attention kernel",
    ),
    "whole requests with a ring": (
        {
            "spec.stages.0.accelerator": REMOVED,
            "spec.stages.0.parallelism.ring": 2,
            "spec.stages.0.load": {"attention": "flash"},
            "spec.stages.0.scheduling.mode": "request",
        },
        "spec.stages[0].parallelism.ring: is 2, and scheduling.mode is request",
    ),
    "a ring in a language model": (
        {"spec.stages": [{**THINKER, "parallelism": {"ring": 2}}], "spec.head": {}},
        "spec.stages[0].parallelism.ring: is for diffusion stages",
    ),
    "divided weights that are quantized": (
        {**WITH_PARTS, "spec.stages.0.load": {"quantization": {"transformer": {"backend": "quanto"}}}},
        "spec.stages[0].load.quantization: keeps the weights of a transformer",
    ),
    "divided weights with adapters": (
        {**WITH_PARTS, "spec.stages.0.loras": [{"name": "ink", "source": "hf://a/b"}]},
        "spec.stages[0].loras: do not go with divided weights",
    ),
    "divided sequences of an offloaded model": (
        {**DIVIDED, "spec.stages.0.load": {"offload": "model"}},
        "spec.stages[0].load.offload: does not go with devices that compute together",
    ),
    "divided sequences of a compiled model": (
        {**DIVIDED, "spec.stages.0.load": {"compile": {}}},
        "spec.stages[0].load.compile: does not go with devices that compute together",
    ),
    "divided sequences with a cache inside the model": (
        {**DIVIDED, "spec.stages.0.cache": {"mode": "first-block"}},
        "spec.stages[0].cache: works inside a model",
    ),
    "divided sequences with an attention that is not": (
        {**DIVIDED, "spec.stages.0.load": {"attention": "flex"}},
        "spec.stages[0].load.attention: cannot be divided over devices",
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
    "devices of two kinds": (
        {"spec.stages.0.accelerator": {"resource": "nvidia.com/gpu", "deviceClassName": "gpu.nvidia.com"}},
        "spec.stages[0].accelerator: says what a device is by resource and deviceClassName; keep one of them",
    ),
    "devices of a class and of a template": (
        {"spec.stages.0.accelerator": {"deviceClassName": "a", "resourceClaimTemplateName": "b"}},
        "spec.stages[0].accelerator: says what a device is by deviceClassName and resourceClaimTemplateName",
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
            "spec.stages.0.accelerator": REMOVED,
            "spec.stages.0.parallelism.cfg": 2,
            "spec.stages.0.scheduling.mode": "request",
        },
        "a request that runs whole cannot be divided; set scheduling.mode to step, or cfg to 1",
    ),
    "a revision of a built-in model": (
        {"spec.model.revision": "main"},
        "spec.model.revision: is only for models of the hub",
    ),
    "a pull policy of a built-in model": (
        {"spec.model.pullPolicy": "Always"},
        "spec.model.pullPolicy: is only for models in images, and the source is builtin://digits; remove it",
    ),
    "pull secrets of a stage's model on the hub": (
        {"spec.stages.0.model": {"source": "hf://a/b", "pullSecrets": ["registry"]}},
        "spec.stages[0].model.pullSecrets: is only for models in images, and the source is hf://a/b; remove it",
    ),
    "a revision of a model in an image": (
        {"spec.model": {"source": "oci://localhost/model:1", "revision": "main"}},
        "spec.model.revision: is only for models of the hub",
    ),
    "a cache for a built-in model": (
        {"spec.model.cache": {"size": "1Gi"}},
        "spec.model.cache: is for models of the hub and for load.compile, and no stage has one of them; remove it",
    ),
    "a cache for a model whose compiled code is not kept": (
        {"spec.model.cache": {"size": "1Gi"}, "spec.stages.0.load": {"compile": {"cache": False}}},
        "spec.model.cache: is for models of the hub and for load.compile, and no stage has one of them; remove it",
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
        "spec.model.cache.retain: is for a claim that is created, and claimName names one of your own, 'mine'; remove",
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
        "spec.videos.storage.storageClass: is for a claim that is created, and claimName names one of your own, 'mine'",
    ),
    "videos on a volume and in a database": (
        {"spec.videos": {"storage": {"size": "1Gi"}, "databaseUrlSecretRef": {"name": "database"}}},
        "spec.videos.databaseUrlSecretRef: names the Secret 'database', and spec.videos.storage a volume",
    ),
    "bodies that are larger than all together": (
        {"spec.api.limits": {"bodySize": "8Mi", "totalBodySize": "4096Ki"}},
        "spec.api.limits.totalBodySize: is 4096Ki, and one body may have 8Mi (bodySize)",
    ),
    "a route to an API with TLS": (
        {"spec.service.route": {"parentRefs": [{"name": "edge"}]}, "spec.api.tls": {"secretName": "certificate"}},
        "spec.service.route: needs an API without TLS, because a Gateway speaks HTTP with it; remove spec.api.tls",
    ),
    "words to a painter": (
        {"spec.stages.0.system": "Be brief."},
        "spec.stages[0].system: is for stages that write text, and 'painter' is a diffusion stage; remove it",
    ),
    "words to an encoder": (
        {"spec.stages": [{**ENCODER, "maxTokens": 5}, PAINTER]},
        "spec.stages[0].maxTokens: is for stages that write text, and 'thinker' is an encoder; remove it",
    ),
    "adapters of a stage that writes": (
        {"spec.stages": [{**THINKER, "loras": [{"name": "ink", "source": "hf://org/ink"}]}, PAINTER]},
        "spec.stages[0].loras: are for stages that draw or encode, and 'thinker' writes text; remove them",
    ),
    "how a pipeline is loaded, of a stage that writes": (
        {"spec.stages": [{**THINKER, "load": {"componentDtypes": {"vae": "float32"}}}, PAINTER]},
        "spec.stages[0].load: has componentDtypes, and 'thinker' is a language model; keep dtype, and remove the rest",
    ),
    "adapters of a compiled model": (
        {"spec.stages.0.load": {"compile": {}}, "spec.stages.0.loras": [{"name": "ink", "source": "hf://org/ink"}]},
        "spec.stages[0].load.compile: is set, and a compiled model takes no adapters; remove it, or the loras",
    ),
    "a cache of a stage that writes": (
        {"spec.stages": [{**THINKER, "cache": {"mode": "skip"}}, PAINTER]},
        "spec.stages[0].cache: leaves out model calls only in diffusion stages in step mode, and 'thinker' is none; "
        "remove it",
    ),
    "a cache in request mode": (
        {"spec.stages.0.cache": {"tolerance": 0.2}, "spec.stages.0.scheduling": {"mode": "request"}},
        "spec.stages[0].cache: leaves out model calls only in diffusion stages in step mode, and 'painter' is none; "
        "remove it",
    ),
    "a count and bounds": (
        {"spec.stages.0.autoscaling": {"maxReplicas": 8}, "spec.stages.0.replicas": 3},
        "spec.stages[0].replicas: is 3, and autoscaling chooses the count; remove one of the two",
    ),
    "fewest above most": (
        {"spec.stages.0.autoscaling": {"minReplicas": 9, "maxReplicas": 8}},
        "spec.stages[0].autoscaling.minReplicas: is 9, and maxReplicas is 8; set it to that at most",
    ),
    "no most": (
        {"spec.stages.0.autoscaling": {"minReplicas": 1}},
        "spec.stages[0].autoscaling.maxReplicas: is missing; expected the most headless pods of the stage",
    ),
    "bounds of another autoscaler": (
        {"spec.stages.0.autoscaling": {"mode": "external", "maxReplicas": 8}},
        "spec.stages[0].autoscaling.maxReplicas: is 8, for mode load; with mode external the other autoscaler has",
    ),
    "a target of another autoscaler": (
        {"spec.stages.0.autoscaling": {"mode": "external", "targetQueueLength": 8}},
        "spec.stages[0].autoscaling.targetQueueLength: is 8, for mode load",
    ),
    "a class of load balancers for another Service": (
        {"spec.service": {"loadBalancerClass": "example.com/internal"}},
        "spec.service.loadBalancerClass: is for a Service of type LoadBalancer, and the type is ClusterIP; set",
    ),
    "clients of a load balancer for another Service": (
        {"spec.service": {"type": "NodePort", "loadBalancerSourceRanges": ["10.0.0.0/8"]}},
        "spec.service.loadBalancerSourceRanges: is for a Service of type LoadBalancer, and the type is NodePort",
    ),
    "a template with a container of no name": (
        {"spec.stages.0.template": BAD_TEMPLATE},
        "spec.stages[0].template.spec.containers[0]: has no name; give it one",
    ),
    "a template with a stray key": (
        {"spec.head.template": {"env": []}},
        "spec.head.template.env: is not part of a pod template; expected one of: metadata, spec",
    ),
}

REFUSED_SIZES = {
    "thousandths of a byte in a request": (
        {"spec.api.limits.bodySize": "64m"},
        'spec.api.limits.bodySize: "64m": m means thousandths; did you mean 64Mi?',
    ),
    "thousandths of a byte in all requests": ({"spec.api.limits.totalBodySize": "512m"}, "did you mean 512Mi?"),
    "thousandths of a byte for videos": ({"spec.videos.maxSize": "500m"}, "did you mean 500Mi?"),
    "thousandths of a byte on a volume": (
        {"spec.videos.storage": {"size": "1.5m"}},
        'spec.videos.storage.size: "1.5m": m means thousandths; did you mean 1.5Mi?',
    ),
    "thousandths of a byte in a cache": (
        {"spec.model": {"source": "hf://a/b", "cache": {"size": "5000m"}}},
        'spec.model.cache.size: "5000m": m means thousandths',
    ),
    "thousandths of a byte shared": (
        {"spec.stages.0.shmSize": "512m"},
        'spec.stages[0].shmSize: "512m": m means thousandths; did you mean 512Mi?',
    ),
}


@pytest.mark.parametrize("row", REFUSED_BY_RULES | REFUSED_SIZES)
def test_refused_with_field_value_and_remedy(digits: dict[str, Any], row: str) -> None:
    edits, expected = {**REFUSED_BY_RULES, **REFUSED_SIZES}[row]
    with pytest.raises(InvalidSpec) as caught:
        parse(edited(digits, edits))
    assert expected in str(caught.value)
