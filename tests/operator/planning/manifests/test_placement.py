"""Where a pod runs so that others could run there too."""

from typing import Any

import pytest

from omni_operator.planning.manifests.placement import placement, where_all_run

GPU, SPOT = ({"key": key, "operator": "Exists"} for key in ("nvidia.com/gpu", "spot"))


def affine(*terms: dict[str, Any]) -> dict[str, Any]:
    required = {"nodeSelectorTerms": list(terms)}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}


def zone(*values: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": "zone", "operator": "In", "values": list(values)}]}


H100, A100 = ({"matchExpressions": [{"key": "gpu", "operator": "In", "values": [value]}]} for value in ("h100", "a100"))
BOTH = [{"matchExpressions": zone("a")["matchExpressions"] + gpu["matchExpressions"]} for gpu in (H100, A100)]

# name: (specs of pods, where all of them run)
ALL: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "pods that run anywhere": ([{}, {"containers": []}], {}),
    "one that runs anywhere, and one that does not": (
        [{}, {"nodeSelector": {"gpu": "h100"}, "tolerations": [GPU]}],
        {"nodeSelector": {"gpu": "h100"}, "tolerations": [GPU]},
    ),
    "labels of both": (
        [{"nodeSelector": {"gpu": "h100", "zone": "a"}}, {"nodeSelector": {"disk": "ssd", "zone": "a"}}],
        {"nodeSelector": {"gpu": "h100", "disk": "ssd", "zone": "a"}},
    ),
    "labels that no node can have": (
        [{"nodeSelector": {"gpu": "h100", "zone": "a"}}, {"nodeSelector": {"gpu": "a100"}}],
        {"nodeSelector": {"gpu": "h100", "zone": "a"}},
    ),
    "taints of both": ([{"tolerations": [GPU]}, {"tolerations": [SPOT, GPU]}], {"tolerations": [GPU, SPOT]}),
    "one with terms": ([affine(H100, A100), {}], affine(H100, A100)),
    "the same terms": ([affine(H100, A100), affine(H100, A100)], affine(H100, A100)),
    "a term of each": ([affine(zone("a")), affine(H100, A100)], affine(*BOTH)),
    "affinities to pods, which are about serving": ([{"affinity": {"podAntiAffinity": {}}}], {}),
}


@pytest.mark.parametrize("row", ALL)
def test_a_pod_runs_where_all_run(row: str) -> None:
    pods, expected = ALL[row]
    assert where_all_run(pods) == expected


ON_A_CPU, ON_A_GPU = {"nodeSelector": {"pool": "cpu"}}, {"nodeSelector": {"gpu": "h100"}, "tolerations": [GPU]}


def preferring(*terms: dict[str, Any]) -> dict[str, Any]:
    preferred = [{"weight": 100, "preference": term} for term in terms]
    return {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}}


# name: (a pod, others, where one runs as the first does, and if possible as the others)
BESIDE: dict[str, tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]] = {
    "no others": ({**ON_A_CPU, **affine(H100)}, [], {**ON_A_CPU, **affine(H100)}),
    "others that run anywhere": (ON_A_CPU, [{}], ON_A_CPU),
    "others in another pool": (ON_A_CPU, [ON_A_GPU], {**ON_A_CPU, **preferring(H100), "tolerations": [GPU]}),
    "others of which it need not be": ({}, [ON_A_GPU, ON_A_GPU], {**preferring(H100), "tolerations": [GPU]}),
    "others with terms": ({}, [affine(zone("a"), zone("b"))], preferring(zone("a"), zone("b"))),
    "others with a label and a term": (
        {},
        [{"nodeSelector": {"gpu": "h100"}, **affine(zone("a"))}],
        preferring({"matchExpressions": H100["matchExpressions"] + zone("a")["matchExpressions"]}),
    ),
}


@pytest.mark.parametrize("row", BESIDE)
def test_a_pod_runs_as_one_and_if_possible_as_the_others(row: str) -> None:
    pod, others, expected = BESIDE[row]
    assert placement(pod, others) == expected
