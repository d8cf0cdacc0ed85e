"""How many pods a stage should have for the requests at it: a decision, from numbers, with the clock given. Pure.

Up at once, in bounded steps; down only to the most that was wished for within a window, so that a load that comes and
goes moves nothing. The window begins with the count that is found, and a load that is not known counts as the one that
keeps the present count: after a restart, or a gap, the count is held for one whole window.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

TOLERANCE = 0.1
"""Part of the target by which the load may miss it while the count stays."""
STEP_SECONDS = 15.0
"""Time between two steps, in which the first one may show what it does."""
STEP_PODS = 4
"""A step up doubles the count, or adds this many where that is more; a step down takes half of it away."""


@dataclass(frozen=True)
class Policy:
    """What the user asked for.

    requests_per_pod: requests at a pod, running and waiting, that the count aims at
    elsewhere: requests that replicas outside these pods are to take, those inside the head
    window: seconds for which a higher wish keeps the count up
    """

    least: int
    most: int
    requests_per_pod: int
    elsewhere: int = 0
    window: float = 300.0

    def bounded(self, pods: int) -> int:
        return min(max(pods, self.least), self.most)


@dataclass(frozen=True)
class StageLoad:
    """What the head tells of a stage.

    requests: those at the stage: running, waiting at a replica, and waiting for one
    anywhere: those in all stages, which may come here next
    running: those that run at its replicas
    capacity: how many of them a pod can run at one time
    """

    requests: int
    anywhere: int = 0
    running: int = 0
    capacity: int = 1


@dataclass(frozen=True)
class Memory:
    """The wishes of the window, each with its time, and when the last step was."""

    wishes: tuple[tuple[float, int], ...]
    stepped: float = float("-inf")


def beginning(pods: int, now: float) -> Memory:
    """What is known of a stage that was just found with this many pods."""
    return Memory(((now, pods),))


def decide(policy: Policy, pods: int, load: StageLoad | None, memory: Memory, now: float) -> tuple[int, Memory]:
    """The count that a stage of `pods` pods is to have from now on, and what to remember. `load` None: not known."""
    wish = wished(policy, pods, load)
    wishes = (*recent(memory.wishes, now - policy.window), (now, wish))
    aim = wish if wish > pods else min(pods, max(count for _, count in wishes))
    target = step(policy, pods, aim)
    if policy.bounded(pods) == pods and pods and now - memory.stepped < STEP_SECONDS:
        target = pods
    return target, Memory(wishes, memory.stepped if target == pods else now)


def wished(policy: Policy, pods: int, load: StageLoad | None) -> int:
    """The count that would be right for this load alone."""
    if load is None:
        return policy.bounded(pods)
    here = max(0, load.requests - policy.elsewhere)
    aim = policy.requests_per_pod * pods
    if abs(here - aim) <= TOLERANCE * aim and pods:
        return policy.bounded(pods)
    enough = ceil(here / policy.requests_per_pod)
    if load.anywhere and not policy.elsewhere:
        enough = max(enough, 1)
    # Those that run now could not run side by side in fewer; more than there are they do not need.
    busy = ceil(max(0, load.running - policy.elsewhere) / max(1, load.capacity))
    return policy.bounded(max(enough, min(busy, pods)))


def recent(wishes: Sequence[tuple[float, int]], since: float) -> tuple[tuple[float, int], ...]:
    """Those that count in a maximum from now on: not the old ones, and not those that a later one has reached."""
    kept: list[tuple[float, int]] = []
    for when, count in reversed(wishes):
        if when <= since:
            break
        if not kept or count > kept[-1][1]:
            kept.append((when, count))
    return tuple(reversed(kept))


def step(policy: Policy, pods: int, target: int) -> int:
    """As far towards the target as one step may go; into the bounds at once, since the user said so."""
    lowest, highest = pods - max(1, pods // 2), pods + max(STEP_PODS, pods)
    return policy.bounded(min(max(target, lowest), highest))
