"""What the typed fields of a head or of a stage make of its pods: a patch, over which the user's template is merged."""

from collections.abc import Mapping, Sequence
from typing import Any

from omni_operator.crd import pod_template as template
from omni_operator.crd.spec.pods import PodSettings
from omni_operator.crd.spec.stage import Accelerator


def patches(settings: PodSettings, selector: Mapping[str, str]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The user's patches, in order. `selector`: labels of the pods, which spread constraints count."""
    return of_fields(settings, selector), settings.template


def of_fields(settings: PodSettings, selector: Mapping[str, str]) -> dict[str, Any]:
    """The patch that the typed fields make, without tolerations, which are in addition to the operator's own."""
    given = settings.model_dump(by_alias=True, exclude_none=True)
    metadata = {"labels": given["podLabels"], "annotations": given["podAnnotations"]}
    container = {
        "env": [variable(one) for one in given["env"]],
        "resources": {kind: as_texts(amounts) for kind, amounts in given["resources"].items() if amounts},
    }
    spec = {
        "affinity": settings.affinity,
        "topologySpreadConstraints": [
            {**one, "labelSelector": {"matchLabels": dict(selector)}} for one in given["topologySpreadConstraints"]
        ],
        "containers": [{"name": template.CONTAINER, **set_only(container)}] if any(container.values()) else [],
    }
    return set_only({"metadata": set_only(metadata), "spec": set_only(spec)})


def tolerations(
    settings: PodSettings, accelerator: Accelerator | None, others: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """The tolerations of pods, on nodes with that accelerator: those, `others` of the operator's, and the user's."""
    resource = accelerator.extended_resource if accelerator else None
    of_devices = [{"key": resource, "operator": "Exists", "effect": "NoSchedule"}] if resource else []
    own = [one.model_dump(by_alias=True, exclude_none=True) for one in settings.tolerations]
    return set_only({"tolerations": [*of_devices, *others, *own]})


def variable(given: Mapping[str, Any]) -> dict[str, Any]:
    """A variable of a container. A variable of the operator that has the same name is replaced entirely."""
    if "valueFrom" in given:
        return {**given, "value": None}
    return {"name": given["name"], "value": given.get("value", ""), "valueFrom": None}


def as_texts(amounts: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(amount) for name, amount in amounts.items()}


def set_only(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are not empty."""
    return {key: value for key, value in fields.items() if value}
