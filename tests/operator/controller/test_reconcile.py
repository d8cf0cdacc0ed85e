"""Passes over a pipeline in a cluster in memory, and the children that a cluster without some kinds gets."""

from collections import Counter
from typing import Any

import pytest

from omni_operator.controller.errors import Incomplete
from omni_operator.controller.reconcile import supported_children
from omni_operator.controller.watches.informers import Informers
from omni_operator.controller.watches.watch import Watch
from omni_operator.kube.errors import ApiError
from omni_operator.kube.resources import CHILDREN, DISRUPTION_BUDGETS, POD_MONITORS
from omni_operator.planning.autoscale import StageLoad
from tests.operator.controller.passes import Pass, edit
from tests.operator.edits import edited

BUDGET = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "a"}}
SERVICE = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}}
NEW, OLD = DISRUPTION_BUDGETS


def test_a_kind_in_an_older_version_is_created_in_that_version() -> None:
    older = {**BUDGET, "apiVersion": "policy/v1beta1"}
    assert supported_children([BUDGET], {**CHILDREN, OLD.kind: OLD}) == ([older], ())


def test_a_kind_in_its_newest_version_is_created_unchanged() -> None:
    assert supported_children([BUDGET, SERVICE], {**CHILDREN, NEW.kind: NEW}) == ([BUDGET, SERVICE], ())


def test_a_kind_that_the_cluster_lacks_is_left_out_and_named_once() -> None:
    assert supported_children([BUDGET, SERVICE, BUDGET], CHILDREN) == ([SERVICE], ("PodDisruptionBudget",))


# ---- passes


def test_a_pass_creates_the_children_and_reports_and_the_next_one_writes_nothing(digits: dict[str, Any]) -> None:
    first = Pass(digits)
    first.run()
    assert {"Deployment", "Service", "Secret", "OmniPipeline"} <= {kind for _, kind, _ in first.cluster.writes}
    assert first.conditions()["Accepted"][0] == "True"
    first.cluster.writes.clear()
    first.run()
    assert first.cluster.writes == []


def test_an_invalid_pipeline_is_only_reported(digits: dict[str, Any]) -> None:
    invalid = Pass(edited(digits, {"spec.stages.0.autoscaling": {"mode": "auto"}}))
    invalid.run()
    assert {verb for verb, _, _ in invalid.cluster.writes} == {"status", "create"}
    assert invalid.conditions()["Accepted"][0] == "False"


def test_a_rejected_child_is_reported_and_asks_for_another_pass(digits: dict[str, Any]) -> None:
    rejected = Pass(digits)
    rejected.cluster.rejected["ConfigMap"] = ApiError(403, "Forbidden", "not allowed")
    with pytest.raises(Incomplete, match="cannot be made: not allowed"):
        rejected.run()
    assert rejected.conditions()["Ready"] == ("False", "Forbidden")


def test_claims_of_devices_that_the_cluster_does_not_know_are_no_problem_of_a_template(digits: dict[str, Any]) -> None:
    template = {"spec": {"schedulerName": "other"}}
    claims = {"spec.stages.0.accelerator": {"resourceClaimTemplateName": "one"}, "spec.stages.0.template": template}
    passes = Pass(edited(digits, claims))
    passes.cluster.rejected_dry_run = ApiError(500, "Unknown", ".spec.template.spec.resourceClaims: field not declared")
    with pytest.raises(Incomplete, match="this cluster has no claims of devices"):
        passes.run()
    assert passes.conditions()["Accepted"] == ("True", "Valid")
    assert passes.conditions()["Ready"] == ("False", "DeviceClaimsMissing")
    assert ("apply", "Deployment", "digits-head") in passes.cluster.writes
    assert ("apply", "Deployment", "digits-painter") not in passes.cluster.writes


MONITORED = {"spec.monitoring": {"podMonitor": {}}}
WEBHOOK = ApiError(500, "InternalError", "conversion webhook failed")


def with_monitors(manifest: dict[str, Any]) -> tuple[Pass, Watch]:
    """A cluster that has PodMonitors, and the watch of them."""
    monitored = Pass(manifest)
    monitored.cluster.child_resources = {**CHILDREN, NEW.kind: NEW, POD_MONITORS.kind: POD_MONITORS}
    object.__setattr__(monitored.reconciler, "informers", Informers(monitored.cluster, (None,), lambda key: None))
    monitored.reconciler.informers.put_pipeline(manifest)
    (watch,) = [one for one in monitored.reconciler.informers._watches if one.resource == POD_MONITORS]
    return monitored, watch


@pytest.mark.parametrize("is_asked_for", [True, False])
def test_a_minor_kind_that_cannot_be_watched_is_reported_where_it_is_asked_for(
    digits: dict[str, Any], is_asked_for: bool
) -> None:
    refused, watch = with_monitors(edited(digits, MONITORED if is_asked_for else {}))
    watch.refusal = WEBHOOK
    refused.run()  # without another pass: the watch asks for one when it works
    assert refused.conditions()["Degraded"] == (("True", "InternalError") if is_asked_for else ("False", "AsExpected"))
    assert refused.conditions()["Progressing"][0] == "True", "all else goes on"
    assert "PodMonitor" not in {kind for _, kind, _ in refused.cluster.writes}
    watch.refusal, watch.is_synced = None, True
    refused.reconciler.informers.put_pipeline(refused.cluster.objects["OmniPipeline", "digits"])
    refused.run()
    assert ("PodMonitor" in {kind for _, kind, _ in refused.cluster.writes}) is is_asked_for
    assert refused.conditions()["Degraded"] == ("False", "AsExpected")


def test_a_minor_kind_that_is_not_known_yet_is_left_alone(digits: dict[str, Any]) -> None:
    pending, watch = with_monitors(edited(digits, MONITORED))
    pending.run()
    assert "PodMonitor" not in {kind for _, kind, _ in pending.cluster.writes}
    assert pending.conditions()["Degraded"] == ("False", "AsExpected")
    watch.is_synced = True
    pending.run()
    assert "PodMonitor" in {kind for _, kind, _ in pending.cluster.writes}


def outdated(made: Pass, manifest: dict[str, Any]) -> None:
    """The server has a newer spec than the watch has reported."""
    newer = edited(manifest, {"metadata.generation": 2, "metadata.resourceVersion": "99", "spec.replicas": 5})
    made.cluster.objects["OmniPipeline", "digits"] = {**made.cluster.objects["OmniPipeline", "digits"], **newer}
    made.cluster.writes.clear()


def test_a_pipeline_that_changed_since_it_was_watched_is_read_again_before_its_children_change(
    digits: dict[str, Any],
) -> None:
    changed = Pass(digits)
    changed.run()
    outdated(changed, digits)
    changed.informers.put_pipeline(
        edited(changed.cluster.objects["OmniPipeline", "digits"], {"metadata.generation": 1, "spec.replicas": 3})
    )
    changed.run()
    assert changed.cluster.objects["Deployment", "digits-painter"]["spec"]["replicas"] == 5
    assert changed.cluster.writes.count(("apply", "Deployment", "digits-painter")) == 1


def test_a_new_pipeline_that_changed_since_it_was_watched_gets_another_pass_at_once(digits: dict[str, Any]) -> None:
    changed = Pass(digits)
    outdated(changed, digits)
    changed.run()
    assert changed.cluster.objects["Deployment", "digits-painter"]["spec"]["replicas"] == 5


# ---- the first pass: what it asks of the server, and what becomes of a template that the server rejects

TEMPLATES = {"spec.head.template": {"spec": {"restartPolicy": "Never"}}, "spec.stages.0.template": {"metadata": {}}}
REJECTED_TEMPLATE = ApiError(422, "Invalid", "no", [("spec.template.spec.restartPolicy", "FieldValueInvalid", "no")])


@pytest.mark.parametrize("changes", [{}, TEMPLATES], ids=["plain", "with templates"])
def test_a_new_pipeline_costs_one_call_for_each_object_one_for_its_status_and_one_for_its_event(
    digits: dict[str, Any], changes: dict[str, Any]
) -> None:
    new = Pass(edited(digits, changes))
    new.run()
    calls = Counter(verb for verb, _, _ in new.cluster.calls)
    made = len([kind for kind, _ in new.cluster.objects if kind not in ("OmniPipeline", "Event")])
    assert calls == {"apply": made - 1, "status": 1, "create": 2}, "the Secret and the Event are created"
    assert made <= 9
    new.cluster.calls.clear()
    new.run()
    assert new.cluster.calls == []


@pytest.mark.parametrize("refused", ["digits-head", "digits-painter"])
def test_a_new_pipeline_whose_template_is_rejected_keeps_no_children(digits: dict[str, Any], refused: str) -> None:
    new = Pass(edited(digits, TEMPLATES))
    new.cluster.rejected["Deployment", refused] = REJECTED_TEMPLATE
    new.run()
    assert new.conditions()["Accepted"] == ("False", "InvalidSpec")
    assert {kind for kind, _ in new.cluster.objects} <= {"OmniPipeline", "Secret", "Event"}
    new.cluster.writes.clear()
    new.run()
    assert new.cluster.writes == [], "until it is corrected it is rehearsed"
    new.cluster.rejected.clear()
    new.run()
    assert new.conditions()["Accepted"][0] == "True"
    assert ("Deployment", refused) in new.cluster.objects


def test_a_changed_template_is_rehearsed_before_anything_changes(digits: dict[str, Any]) -> None:
    changed = Pass(digits)
    changed.run()
    changed.cluster.writes.clear()
    changed.cluster.objects["OmniPipeline", "digits"] = newer = {
        **edited(digits, {**TEMPLATES, "metadata.generation": 2, "metadata.resourceVersion": "99"}),
        "status": changed.cluster.objects["OmniPipeline", "digits"]["status"],
    }
    changed.informers.put_pipeline(newer)
    changed.cluster.rejected["Deployment", "digits-head"] = REJECTED_TEMPLATE
    changed.run()
    assert {verb for verb, _, _ in changed.cluster.writes} == {"status", "create"}


def test_a_deleted_pipeline_is_forgotten_without_a_write(digits: dict[str, Any]) -> None:
    bounds = {"minReplicas": 1, "maxReplicas": 8}
    scaled = Pass(edited(digits, {"spec.stages.0.autoscaling": bounds}))
    scaled.run()
    assert scaled.autoscaler.keys == [scaled.key]
    scaled.cluster.writes.clear()
    del scaled.cluster.objects["OmniPipeline", "digits"]
    scaled.informers.remove_pipeline(digits)
    scaled.run()
    assert scaled.autoscaler.keys == []
    assert scaled.cluster.writes == []


# ---- a spec that is not valid any more


BROKEN = {"spec.head": {"stage": "nope"}, "metadata.generation": 2}


def count_of(passes: Pass, stage: str) -> int:
    return int(passes.cluster.objects["Deployment", stage]["spec"]["replicas"])


def test_with_an_invalid_spec_what_runs_is_healed_and_scaled_by_the_last_valid_one(digits: dict[str, Any]) -> None:
    load = {"painter": StageLoad(0)}
    passes = Pass(edited(digits, {"spec.stages.0.autoscaling": {"minReplicas": 0, "maxReplicas": 8}}), load)
    passes.run()
    edit(passes, BROKEN)
    passes.informers._cache.remove(passes.cluster.objects.pop(("Service", "digits")))
    passes.run()
    assert passes.conditions()["Accepted"] == ("False", "InvalidSpec")
    assert passes.cluster.objects["OmniPipeline", "digits"]["status"]["observedGeneration"] == 2
    assert ("Service", "digits") in passes.cluster.objects
    load["painter"] = StageLoad(32)
    assert passes.autoscaler.poll(passes.key)
    passes.run()
    assert count_of(passes, "digits-painter") == 6
    passes.cluster.writes.clear()
    passes.run()
    assert passes.cluster.writes == []


def test_an_operator_that_starts_while_the_spec_is_invalid_follows_the_last_valid_one(digits: dict[str, Any]) -> None:
    before = Pass(digits)
    before.run()
    edit(before, {**BROKEN, "spec.replicas": 3})
    count = count_of(before, "digits-painter")
    after = Pass(before.cluster.objects["OmniPipeline", "digits"])
    after.cluster.objects.update(before.cluster.objects)
    for child in before.cluster.objects.values():
        after.informers.put_child(child)
    after.cluster.writes.extend(before.cluster.writes)
    after.run()
    assert after.conditions()["Accepted"] == ("False", "InvalidSpec")
    assert {kind for _, kind, _ in after.cluster.writes[len(before.cluster.writes) :]} == {"OmniPipeline", "Event"}
    assert count_of(after, "digits-painter") == count
    edit(after, {"spec.head": {}, "metadata.generation": 3})
    after.run()
    assert count_of(after, "digits-painter") == 3


def test_a_pipeline_that_was_never_valid_creates_nothing(digits: dict[str, Any]) -> None:
    passes = Pass(edited(digits, BROKEN))
    passes.run()
    assert {kind for _, kind, _ in passes.cluster.writes} == {"OmniPipeline", "Event"}
    assert passes.conditions()["Stalled"] == ("True", "NotAccepted")
    edit(passes, {"spec.head": {}, "metadata.generation": 3})
    passes.run()
    assert passes.conditions()["Accepted"] == ("True", "Valid")


def test_pods_that_the_server_rejects_change_neither_what_runs_nor_its_bounds(digits: dict[str, Any]) -> None:
    passes = Pass(edited(digits, {"spec.stages.0.autoscaling": {"maxReplicas": 8}, "spec.replicas": 8}))
    passes.run()
    assert count_of(passes, "digits-painter") == 8
    template = {"spec": {"nodeSelector": {"a": "b"}}}
    causes = [("spec.template.spec.nodeSelector", "FieldValueInvalid", "Invalid value")]
    passes.cluster.rejected_dry_run = ApiError(422, "Invalid", "Deployment is invalid", causes)
    fewer = {"spec.stages.0.autoscaling": {"maxReplicas": 2}, "spec.stages.0.template": template}
    edit(passes, {**fewer, "metadata.generation": 2})
    passes.run()
    assert passes.conditions()["Accepted"] == ("False", "InvalidSpec")
    passes.autoscaler.poll(passes.key)
    passes.run()
    assert count_of(passes, "digits-painter") == 8
