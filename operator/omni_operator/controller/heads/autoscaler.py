"""Autoscaling: the pod counts of all stages that the operator scales, kept in memory and moved by `planning.autoscale`.

A pass over a pipeline asks for its counts, and once it has applied them, has them follow the load: each poll reads the
load from the head and decides the counts, and the next pass applies them. After a restart, counts start with those that
the cluster has.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from omni_operator.controller.heads.head_api import HeadError
from omni_operator.controller.heads.poller import PollEntry, Poller
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.crd.spec.stage import Stage
from omni_operator.planning.autoscale import ScalingHistory, ScalingPolicy, StageLoad, decide, initial_history

UNKNOWN_LOAD_SECONDS = 15.0
"""Time without an answer after which the status reports it: a head that restarts does not answer for a while."""


@dataclass(frozen=True)
class PodCounts:
    """The pod counts of the stages with autoscaling, by stage name. `unknown`: why their load is not known, if so."""

    pods: Mapping[str, int] = field(default_factory=dict)
    unknown: str | None = None


@dataclass(kw_only=True)
class ScaledPipeline(PollEntry):
    """A pipeline that the operator scales.

    answered_at: when the head last answered, or when the operator began to scale the pipeline
    is_unknown: whether the status must report that the head does not answer
    """

    answered_at: float
    pods: dict[str, int] = field(default_factory=dict)
    histories: dict[str, ScalingHistory] = field(default_factory=dict)
    is_unknown: bool = False


class Autoscaler(Poller[ScaledPipeline, Mapping[str, StageLoad]]):
    """`read` returns the load of each stage, by name; `clock` is monotonic, in seconds."""

    def __init__(self, read: Callable[[OmniPipeline], Mapping[str, StageLoad]], clock: Callable[[], float]) -> None:
        super().__init__(read)
        self._clock = clock

    def counts(self, pipeline: OmniPipeline, current_pods: Mapping[str, int]) -> PodCounts:
        """The pod counts of all stages with autoscaling, and the reason if the load is unknown. Changes nothing.

        `current_pods`: pods in the Deployment of each stage that has one. A stage without one starts with the spec's
        count. While the pipeline is suspended or paused, and for stages that something else scales, the counts stay.
        """
        counts = {
            stage.name: current_pods.get(stage.name, pipeline.replicas_of(stage))
            for stage in pipeline.spec.stages
            if stage.autoscaling
        }
        stages = scaled_stages(pipeline)
        with self._lock:
            entry = self._entry_of(pipeline) if stages else None
            decided = dict(entry.pods) if entry else {}
            unknown = entry.problem if entry and entry.is_unknown else None
        for stage in stages:
            pods = decided.get(stage.name, counts[stage.name])
            counts[stage.name] = policy_of(pipeline, stage).bounded(pods)
        return PodCounts(counts, unknown)

    def follow(self, pipeline: OmniPipeline, counts: PodCounts) -> None:
        """Let the counts that a pass has applied follow the load, by this spec; or forget a pipeline without any."""
        key, stages = (pipeline.namespace, pipeline.name), scaled_stages(pipeline)
        if not stages:
            self.forget(key)
            return
        with self._lock:
            now = self._clock()
            entry = self._entry_of(pipeline)
            if entry is None:
                entry = self._entries[key] = ScaledPipeline(pipeline=pipeline, answered_at=now)
            entry.pipeline = pipeline
            for stage in stages:
                if stage.name not in entry.pods:
                    entry.pods[stage.name] = counts.pods[stage.name]
                    entry.histories[stage.name] = initial_history(counts.pods[stage.name], now)
                entry.pods[stage.name] = policy_of(pipeline, stage).bounded(entry.pods[stage.name])

    def _entry_of(self, pipeline: OmniPipeline) -> ScaledPipeline | None:
        """The entry of a pipeline. One that was deleted and created again has none yet."""
        entry = self._entries.get((pipeline.namespace, pipeline.name))
        return entry if entry and entry.pipeline.metadata.uid == pipeline.metadata.uid else None

    def _update(self, entry: ScaledPipeline, answer: Mapping[str, StageLoad] | HeadError) -> bool:
        """Decide the counts. Needs a pass if a count changes, or if the load becomes unknown or known again."""
        now = self._clock()
        was_unknown = entry.is_unknown
        loads: Mapping[str, StageLoad]
        if isinstance(answer, HeadError):
            loads = {}
            entry.is_unknown = now - entry.answered_at >= UNKNOWN_LOAD_SECONDS
        else:
            loads, entry.answered_at, entry.is_unknown = answer, now, False
        pods_before = dict(entry.pods)
        for stage in entry.pipeline.spec.stages:
            if stage.is_autoscaled and stage.name in entry.pods:
                entry.pods[stage.name], entry.histories[stage.name] = decide(
                    policy_of(entry.pipeline, stage),
                    entry.pods[stage.name],
                    loads.get(stage.name),
                    entry.histories[stage.name],
                    now,
                )
        return entry.pods != pods_before or entry.is_unknown is not was_unknown


def scaled_stages(pipeline: OmniPipeline) -> list[Stage]:
    """The stages whose counts follow the load now."""
    is_at_rest = pipeline.spec.suspend or pipeline.spec.paused
    return [] if is_at_rest else [stage for stage in pipeline.spec.stages if stage.is_autoscaled]


def policy_of(pipeline: OmniPipeline, stage: Stage) -> ScalingPolicy:
    """How to scale a stage. The spec counts requests per replica; the policy counts them per pod."""
    autoscaling = stage.autoscaling
    assert autoscaling is not None
    is_head_stage = pipeline.spec.stages[pipeline.head_stage] is stage
    replicas_in_head = pipeline.spec.head.local_replicas if is_head_stage else 0
    return ScalingPolicy(
        min_pods=autoscaling.min_replicas,
        max_pods=autoscaling.most,
        requests_per_pod=autoscaling.target_queue_length * stage.local_replicas,
        requests_in_head=autoscaling.target_queue_length * replicas_in_head,
        window_seconds=autoscaling.scale_down_stabilization_seconds,
    )
