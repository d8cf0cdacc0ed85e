"""Where components take turns on the device, requests wait for those that need the same one, within a bound."""

import pytest

from omni_worker.engine.scheduler import RequestOutput, RunnerOutput, SchedulerRequest, StepScheduler
from omni_worker.engine.scheduler.components import MAX_WAIT

STEPS = 20
CALLS = ["text_encoder", *["transformer"] * STEPS, "vae"]


class Replica:
    """Runs requests of CALLS, and counts how often the component that is called changes.

    seconds: that each batch takes
    offloads: whether requests name their components
    """

    def __init__(self, seconds: float, offloads: bool = True) -> None:
        self.scheduler = StepScheduler(32)
        self.seconds, self.offloads = seconds, offloads
        self.now = 0.0
        self.done: dict[str, int] = {}
        self.ended: dict[str, float] = {}
        self.order: list[str] = []

    def add(self, id: str) -> None:
        self.scheduler.add_request(SchedulerRequest(id, None), self.now)

    def step(self) -> None:
        output = self.scheduler.schedule(self.now)
        self.now += self.seconds
        for id in output.cached:
            self.order.append(CALLS[self.done[id]])
            self.done[id] += 1
        self.done |= {request.id: 0 for request in output.new}
        outputs = tuple(self.outcome(id) for id in (*(request.id for request in output.new), *output.cached))
        self.scheduler.update_from_output(output, RunnerOutput(output.step_id, outputs))

    def outcome(self, id: str) -> RequestOutput:
        if self.done[id] == len(CALLS):
            self.ended[id] = self.now
            return RequestOutput(id, result="image")
        component = CALLS[self.done[id]]
        return RequestOutput(
            id, key=component, in_loop=component == "transformer", component=component if self.offloads else None
        )

    @property
    def moves(self) -> int:
        return 1 + sum(one != other for one, other in zip(self.order, self.order[1:], strict=False))


def run(replica: Replica, requests: int = 16) -> Replica:
    """Requests that join one by one, a batch apart."""
    for i in range(requests):
        replica.add(str(i))
        replica.step()
    while len(replica.ended) < requests:
        replica.step()
    return replica


@pytest.mark.parametrize("seconds", [0.01, 0.3, 2.0], ids=["quick", "usual", "slow"])
def test_components_move_for_batches_and_not_for_requests(seconds):
    apart, together = run(Replica(seconds, offloads=False)), run(Replica(seconds))
    assert together.moves <= 16
    assert together.moves < apart.moves / 2


def test_quick_requests_need_each_component_once():
    assert run(Replica(0.01)).moves == 3


def test_a_request_waits_for_its_component_within_the_bound():
    replica = Replica(0.5)
    replica.add("first")
    while "transformer" not in replica.order:
        replica.step()
    began = replica.now
    for i in range(100):  # the loop is never empty
        if i % 4 == 0:
            replica.add(str(i))
        waited = replica.now - began
        replica.step()
        if replica.order[-1] == "text_encoder":
            break
    else:
        pytest.fail("nobody was encoded")
    assert waited <= MAX_WAIT + 2 * replica.seconds


def test_without_components_nothing_waits():
    replica = Replica(0.3, offloads=False)
    replica.add("first")
    for _ in range(4):
        replica.step()
    replica.add("second")
    replica.step()
    replica.step()
    assert "text_encoder" in replica.order[2:]
