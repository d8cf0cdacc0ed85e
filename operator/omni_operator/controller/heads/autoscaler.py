"""Autoscaling: the pod counts of all stages that the operator scales, kept in memory and moved by `planning.autoscale`.

A pass over a pipeline asks for its counts, and so registers it for polling. Each poll reads the load from the head and
decides the counts; the next pass applies them. After a restart, counts start with those that the cluster has.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from omni_operator.controller.heads.head_api import HeadError
from omni_operator.controller.heads.poller import PollEntry, Poller
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.crd.spec.stage import Autoscaling, Stage
from omni_operator.planning.autoscale import ScalingHistory, ScalingPolicy, StageLoad, decide, initial_history

UNKNOWN_LOAD_SECONDS = 15.0
"""Time without an answer after which the status reports it: a head that restarts does not answer for a while."""


@dataclass(frozen=True)
class PodCounts:
    """The pod counts of the stages with autoscaling, by stage name. `unknown`: why their load is not known, if so."""

    pods: Mapping[str, int] = field(default_factory=dict)
    unknown: str | None = None


@dataclass
class ScaledPipeline(PollEntry):
    """A pipeline that the operator scales.

    answered_at: when the head last answered, or when the operator began to scale the pipeline
    problem: the latest reason why the head did not answer
    is_unknown: whether the status must report the problem
    """

    answered_at: float
    pods: dict[str, int] = field(default_factory=dict)
    histories: dict[str, ScalingHistory] = field(default_factory=dict)
    problem: str = ""
    is_unknown: bool = False


class Autoscaler(Poller[ScaledPipeline, Mapping[str, StageLoad]]):
    """`read` returns the load of each stage, by name; `clock` is monotonic, in seconds."""

    def __init__(self, read: Callable[[OmniPipeline], Mapping[str, StageLoad]], clock: Callable[[], float]) -> None:
        super().__init__(read)
        self._clock = clock

    def counts(self, pipeline: OmniPipeline, current_pods: Mapping[str, int]) -> PodCounts:
        """The pod counts of all stages with autoscaling, and the reason if the load is unknown.

        `current_pods`: pods in the Deployment of each stage that has one. A stage without one starts with the spec's
        count. While the pipeline is suspended or paused, and for stages that something else scales, the counts stay.
        """
        counts = {
            stage.name: current_pods.get(stage.name, pipeline.replicas_of(stage))
            for stage in pipeline.spec.stages
            if stage.autoscaling
        }
        is_at_rest = pipeline.spec.suspend or pipeline.spec.paused
        scaled_stages = [] if is_at_rest else [stage for stage in pipeline.spec.stages if stage.is_autoscaled]
        if not scaled_stages:
            self.forget((pipeline.namespace, pipeline.name))
            return PodCounts(counts)
        with self._lock:
            now = self._clock()
            entry = self._entry_of(pipeline, now)
            for stage in scaled_stages:
                if stage.name not in entry.pods:
                    entry.pods[stage.name] = counts[stage.name]
                    entry.histories[stage.name] = initial_history(counts[stage.name], now)
                entry.pods[stage.name] = policy_of(pipeline, stage).bounded(entry.pods[stage.name])
                counts[stage.name] = entry.pods[stage.name]
            return PodCounts(counts, entry.problem if entry.is_unknown else None)

    def _entry_of(self, pipeline: OmniPipeline, now: float) -> ScaledPipeline:
        """The entry of a pipeline, with its latest spec. A pipeline that was deleted and created again starts over."""
        key = (pipeline.namespace, pipeline.name)
        entry = self._entries.get(key)
        if entry is None or entry.pipeline.metadata.uid != pipeline.metadata.uid:
            entry = self._entries[key] = ScaledPipeline(pipeline, answered_at=now)
        entry.pipeline = pipeline
        return entry

    def _update(self, entry: ScaledPipeline, answer: Mapping[str, StageLoad] | HeadError) -> bool:
        """Decide the counts. Needs a pass if a count changes, or if the load becomes unknown or known again."""
        now = self._clock()
        was_unknown = entry.is_unknown
        loads: Mapping[str, StageLoad]
        if isinstance(answer, HeadError):
            loads, entry.problem = {}, str(answer)
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


def policy_of(pipeline: OmniPipeline, stage: Stage) -> ScalingPolicy:
    """How to scale a stage. The spec counts requests per replica; the policy counts them per pod."""
    autoscaling = stage.autoscaling
    assert isinstance(autoscaling, Autoscaling)
    is_head_stage = pipeline.spec.stages[pipeline.head_stage] is stage
    replicas_in_head = pipeline.spec.head.local_replicas if is_head_stage else 0
    return ScalingPolicy(
        min_pods=autoscaling.min_replicas,
        max_pods=autoscaling.max_replicas,
        requests_per_pod=autoscaling.target_queue_length * stage.local_replicas,
        requests_in_head=autoscaling.target_queue_length * replicas_in_head,
        window_seconds=autoscaling.scale_down_stabilization_seconds,
    )
