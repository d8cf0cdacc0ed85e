"""The counts of all stages that the operator scales: kept in memory, moved by `autoscale`, applied by `reconcile`.

A reconciliation asks for the counts of its pipeline, which makes the pipeline known here; between reconciliations
`poll` reads the loads, and says whether there is something to reconcile. After a restart counts begin with what is
found in the cluster. Usable from many threads.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from omni_operator.controller.heads.head_api import UnknownLoad
from omni_operator.crd.spec.pipeline import OmniPipeline
from omni_operator.crd.spec.stage import Autoscaling, Stage
from omni_operator.planning.autoscale import ScalingHistory, ScalingPolicy, StageLoad, decide, initial_history

UNKNOWN_SECONDS = 15.0
"""How long a load may be unknown before the status says so: a head that starts anew tells nothing for a while."""

Key = tuple[str, str]
Read = Callable[[OmniPipeline], Mapping[str, StageLoad]]


@dataclass(frozen=True)
class Counts:
    """Pods of the stages whose count is not the spec's to say; and why a load is not known, where it is not."""

    pods: Mapping[str, int] = field(default_factory=dict)
    unknown: str | None = None


@dataclass
class Scaled:
    """A pipeline that is scaled. `heard`: when its load was last known; `problem`: why it has not been since."""

    pipeline: OmniPipeline
    pods: dict[str, int]
    memories: dict[str, ScalingHistory]
    heard: float
    problem: str = ""
    is_unknown: bool = False


class Scaler:
    """`read` asks a pipeline's head, and raises UnknownLoad; `clock` is monotonic, in seconds."""

    def __init__(self, read: Read, clock: Callable[[], float]) -> None:
        self._read, self._clock = read, clock
        self._lock = threading.Lock()
        self._scaled: dict[Key, Scaled] = {}

    def counts(self, pipeline: OmniPipeline, live: Mapping[str, int]) -> Counts:
        """What each stage that is scaled is to have, by the operator or others; `live`: what each has now."""
        is_at_rest = pipeline.spec.suspend or pipeline.spec.paused
        ours = [stage for stage in pipeline.spec.stages if stage.is_autoscaled and not is_at_rest]
        others = [stage for stage in pipeline.spec.stages if stage.autoscaling and stage not in ours]
        elsewhere = {stage.name: live.get(stage.name, pipeline.replicas_of(stage)) for stage in others}
        key = (pipeline.namespace, pipeline.name)
        if not ours:
            self.forget(key)
            return Counts(elsewhere)
        with self._lock:
            now, known = self._clock(), self._scaled.get(key)
            if known is None or known.pipeline.metadata.uid != pipeline.metadata.uid:
                known = self._scaled[key] = Scaled(pipeline, {}, {}, now)
            known.pipeline = pipeline
            for stage in ours:
                if stage.name not in known.pods:
                    known.pods[stage.name] = live.get(stage.name, pipeline.replicas_of(stage))
                    known.memories[stage.name] = initial_history(known.pods[stage.name], now)
                known.pods[stage.name] = policy_of(pipeline, stage).bounded(known.pods[stage.name])
            pods = {stage.name: known.pods[stage.name] for stage in ours}
            return Counts(elsewhere | pods, known.problem if known.is_unknown else None)

    def forget(self, key: Key) -> None:
        with self._lock:
            self._scaled.pop(key, None)

    def forget_where(self, is_left: Callable[[str], bool]) -> None:
        """Another operator decides from now on, in the namespaces of which that is so."""
        with self._lock:
            self._scaled = {key: scaled for key, scaled in self._scaled.items() if not is_left(key[0])}

    @property
    def keys(self) -> list[Key]:
        """The pipelines to poll."""
        with self._lock:
            return list(self._scaled)

    def poll(self, key: Key) -> bool:
        """Read the load of one pipeline, and decide. True where there is something to reconcile."""
        known = self._scaled.get(key)
        if known is None:
            return False
        loads: Mapping[str, StageLoad] = {}
        problem = ""
        try:
            loads = self._read(known.pipeline)
        except UnknownLoad as error:
            problem = str(error)
        with self._lock:
            if self._scaled.get(key) is not known:
                return False
            return moved(known, loads, problem, self._clock())


def moved(known: Scaled, loads: Mapping[str, StageLoad], problem: str, now: float) -> bool:
    """Take what was read, or why nothing was. True where a count, or what the status says, is another than before."""
    if not problem:
        known.heard = now
    was, known.problem = known.is_unknown, problem or known.problem
    known.is_unknown = bool(problem) and now - known.heard >= UNKNOWN_SECONDS
    before = dict(known.pods)
    for stage in known.pipeline.spec.stages:
        if stage.is_autoscaled and stage.name in known.pods:
            known.pods[stage.name], known.memories[stage.name] = decide(
                policy_of(known.pipeline, stage),
                known.pods[stage.name],
                loads.get(stage.name),
                known.memories[stage.name],
                now,
            )
    return known.pods != before or known.is_unknown is not was


def policy_of(pipeline: OmniPipeline, stage: Stage) -> ScalingPolicy:
    wanted = stage.autoscaling
    assert isinstance(wanted, Autoscaling)
    is_head_stage = pipeline.spec.stages[pipeline.head_stage] is stage
    in_head = pipeline.spec.head.local_replicas if is_head_stage else 0
    return ScalingPolicy(
        min_pods=wanted.min_replicas,
        max_pods=wanted.max_replicas,
        requests_per_pod=wanted.target_queue_length * stage.local_replicas,
        requests_in_head=wanted.target_queue_length * in_head,
        window_seconds=wanted.scale_down_stabilization_seconds,
    )
