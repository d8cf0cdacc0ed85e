"""On which nodes pods may run, read from their specs: for pods that prepare something there for others. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

PodSpec = Mapping[str, Any]
Term = Mapping[str, Any]
"""A node selector term, all of whose expressions a node must match."""

REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def placement(pod: PodSpec, others: Sequence[PodSpec] = ()) -> dict[str, Any]:
    """The fields with which a pod runs where this one may run, and if possible where the others may run too."""
    selector = dict(pod.get("nodeSelector") or {})
    affinity = dict(node_affinity(pod))
    preferences = [{"weight": 100, "preference": term} for other in others for term in node_terms(other)]
    if preferences:
        affinity[PREFERRED] = distinct([*(affinity.get(PREFERRED) or []), *preferences])
    tolerations = distinct(toleration for one in (pod, *others) for toleration in one.get("tolerations") or [])
    return {
        **({"nodeSelector": selector} if selector else {}),
        **({"affinity": {"nodeAffinity": affinity}} if affinity else {}),
        **({"tolerations": tolerations} if tolerations else {}),
    }


def where_all_run(pods: Sequence[PodSpec]) -> dict[str, Any]:
    """The fields with which a pod runs where every one of these may run. Of two values of a label, the first counts."""
    selector = {key: value for pod in reversed(pods) for key, value in (pod.get("nodeSelector") or {}).items()}
    alternatives = distinct(terms for pod in pods if (terms := required_terms(pod)))
    terms = [merged_term(combination) for combination in product(*alternatives)] if alternatives else []
    affinity = {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": terms}}} if terms else {}
    tolerations = [toleration for pod in pods for toleration in pod.get("tolerations") or []]
    return placement({"nodeSelector": selector, "affinity": affinity, "tolerations": tolerations})


def node_affinity(pod: PodSpec) -> Mapping[str, Any]:
    return (pod.get("affinity") or {}).get("nodeAffinity") or {}


def required_terms(pod: PodSpec) -> list[Term]:
    """The terms of a pod's node affinity, of which a node must match one."""
    return list((node_affinity(pod).get(REQUIRED) or {}).get("nodeSelectorTerms") or [])


def node_terms(pod: PodSpec) -> list[Term]:
    """The terms of which the nodes where a pod may run match one; none if it may run on all."""
    selector = (pod.get("nodeSelector") or {}).items()
    labels = [{"key": key, "operator": "In", "values": [value]} for key, value in sorted(selector)]
    own: list[Term] = [{"matchExpressions": labels}] if labels else []
    return [merged_term([*own, term]) for term in required_terms(pod)] or own


def merged_term(terms: Sequence[Term]) -> Term:
    keys = dict.fromkeys(key for term in terms for key in term)
    return {key: distinct(one for term in terms for one in term.get(key) or []) for key in keys}


def distinct(items: Iterable[Any]) -> list[Any]:
    """The items, each once."""
    result: list[Any] = []
    for item in items:
        if item not in result:
            result.append(item)
    return result
