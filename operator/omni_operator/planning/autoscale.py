"""Decides how many pods a stage should have for its current requests. Pure: the caller passes the time.

Scaling up starts at once, in limited steps. Scaling down goes only to the highest count that was desired within the
stabilization window, so a load that comes and goes moves nothing. After a restart the window starts with the existing
count, and an unknown load counts as a desire for it: the count stays for at least one window. A stage that was at zero
keeps a pod until one window after it began to serve.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

TOLERANCE = 0.1
"""The count stays while the requests differ from the target by at most this part of it."""
STEP_SECONDS = 15.0
"""Time between two steps, so that the first one shows its effect."""
STEP_PODS = 4
"""A step up doubles the count, or adds this many pods if that is more. A step down removes half of the pods."""


@dataclass(frozen=True)
class ScalingPolicy:
    """The user's settings for one stage.

    min_pods, max_pods: bounds of the count
    requests_per_pod: target of running and waiting requests at a pod
    requests_in_head: requests for which the replicas inside the head are enough; the pods serve the rest
    window_seconds: time for which a higher desired count keeps the count up
    """

    min_pods: int
    max_pods: int
    requests_per_pod: int
    requests_in_head: int = 0
    window_seconds: float = 300.0

    def bounded(self, pods: int) -> int:
        return min(max(pods, self.min_pods), self.max_pods)


@dataclass(frozen=True)
class StageLoad:
    """The load of a stage, as the head reports it.

    requests: at the stage: running, waiting at a replica, and waiting for a replica
    requests_in_pipeline: in all stages; they may reach this stage next
    running: running at the stage's replicas
    capacity: requests that a pod can run at a time
    serving: replicas that serve
    """

    requests: int
    requests_in_pipeline: int = 0
    running: int = 0
    capacity: int = 1
    serving: int = 0


DesiredCount = tuple[float, int]
"""When a count was desired (monotonic, in seconds), and the count."""


@dataclass(frozen=True)
class ScalingHistory:
    """The desired counts within the window, the oldest first, and the time of the last step."""

    desired: tuple[DesiredCount, ...]
    last_step: float = float("-inf")


def initial_history(pods: int, now: float) -> ScalingHistory:
    """The history of a stage that the operator has just found with this many pods."""
    return ScalingHistory(((now, pods),))


def decide(
    policy: ScalingPolicy, pods: int, load: StageLoad | None, history: ScalingHistory, now: float
) -> tuple[int, ScalingHistory]:
    """The new count of a stage that has `pods` pods, and the history for the next call. `load` None: unknown."""
    desired = desired_pods(policy, pods, load)
    within_window = (*relevant_counts(history.desired, now - policy.window_seconds), (now, desired))
    stabilized = desired if desired > pods else min(pods, max(count for _, count in within_window))
    is_within_bounds = policy.bounded(pods) == pods
    has_just_stepped = now - history.last_step < STEP_SECONDS
    # Bounds hold at once, and a stage without pods wakes at once. All else waits for the effect of the last step.
    must_wait = is_within_bounds and pods > 0 and has_just_stepped
    target = pods if must_wait else limited_step(policy, pods, stabilized)
    return target, ScalingHistory(within_window, history.last_step if target == pods else now)


def desired_pods(policy: ScalingPolicy, pods: int, load: StageLoad | None) -> int:
    """The right count for this load alone."""
    if load is None:
        return policy.bounded(pods)
    requests = max(0, load.requests - policy.requests_in_head)
    if pods and is_near_target(requests, policy.requests_per_pod * pods):
        return policy.bounded(pods)
    for_requests = ceil(requests / policy.requests_per_pod)
    # A stage that was woken stays awake until a pod serves, even if that takes long and no request waits any more.
    is_waking = pods > 0 and not load.serving
    if (load.requests_in_pipeline or is_waking) and not policy.requests_in_head:
        for_requests = max(for_requests, 1)
    # Fewer pods could not run the running requests side by side. They never need more pods than there are.
    running = max(0, load.running - policy.requests_in_head)
    for_running = min(ceil(running / max(1, load.capacity)), pods)
    return policy.bounded(max(for_requests, for_running))


def is_near_target(requests: int, target: int) -> bool:
    return abs(requests - target) <= TOLERANCE * target


def relevant_counts(desired: Sequence[DesiredCount], since: float) -> tuple[DesiredCount, ...]:
    """The counts that can still be a window's maximum: newer than `since`, and above every later one."""
    kept: list[DesiredCount] = []
    for when, count in reversed(desired):
        if when <= since:
            break
        if not kept or count > kept[-1][1]:
            kept.append((when, count))
    return tuple(reversed(kept))


def limited_step(policy: ScalingPolicy, pods: int, target: int) -> int:
    """The count after one step towards the target. A count outside the bounds moves into them at once."""
    lowest, highest = pods - max(1, pods // 2), pods + max(STEP_PODS, pods)
    return policy.bounded(min(max(target, lowest), highest))
