"""What deciding costs: `schedule()` with 32 requests running, as ratios within one process.

Cells: each policy with 0, 256 and 2000 requests waiting, first while nobody comes or goes, then while one request ends
and another comes at every turn. A turn is 20 ms on the scheduler's clock. The cells are interleaved, and the median
over `--repeats` passes is reported, as a ratio to `fifo` with nobody waiting and nobody coming, whose microseconds are
printed once: an absolute time says as much about the machine as about the code.

    python -m benchmarks.scheduler [--quick] [--repeats 5] [--turns 500]
"""

import random
import statistics
import time

from benchmarks import common
from rich.table import Table

from omni_worker.engine.scheduler import (
    POLICIES,
    RequestOutput,
    RunnerOutput,
    SchedulerOutput,
    SchedulerRequest,
    StepScheduler,
)

RUNNING = 32
WAITING = (0, 256, 2000)
TURN_SECONDS = 0.02
STEPS = 10**6
KEYS = ("small", "large")
Cell = tuple[str, int, bool]


class Bench:
    """A scheduler that always holds RUNNING + `waiting` requests, and a runner that costs nothing."""

    def __init__(self, policy: str, waiting: int, moving: bool) -> None:
        self._scheduler = StepScheduler(RUNNING, POLICIES[policy](), find_batch_size=True)
        self._random = random.Random(0)
        self._moving = moving
        self._now = 0.0
        self._made = 0
        for _ in range(RUNNING + waiting):
            self._add()
        for _ in range(100):  # until all have the key of their loop, and the sizes of batches are learned
            self.turn()

    def turn(self) -> float:
        """Seconds that one `schedule()` took."""
        self._now += TURN_SECONDS
        began = time.perf_counter()
        scheduled = self._scheduler.schedule(self._now)
        seconds = time.perf_counter() - began
        self._scheduler.update_from_output(scheduled, self._answer(scheduled))
        return seconds

    def _answer(self, scheduled: SchedulerOutput) -> RunnerOutput:
        prepared = [
            RequestOutput(request.id, key=KEYS[int(request.id) % 2], total_steps=STEPS) for request in scheduled.new
        ]
        advanced = [
            RequestOutput(id, key=KEYS[int(id) % 2], step=1, total_steps=STEPS - int(id)) for id in scheduled.cached
        ]
        if self._moving and advanced:
            advanced[0] = RequestOutput(advanced[0].id, result="done")
            self._add()
        size = len(scheduled.cached)
        timed = (scheduled.step_id, 0.01 + 0.001 * size) if size else None
        return RunnerOutput(scheduled.step_id, (*prepared, *advanced), timed)

    def _add(self) -> None:
        self._made += 1
        request = SchedulerRequest(
            str(self._made),
            None,
            tenant=f"tenant {self._made % 5}",
            deadline=self._now + 1e9 + self._made,
            steps=STEPS + self._random.randrange(100),
        )
        self._scheduler.add_request(request, self._now)


def main() -> None:
    """Run the cells and print the table."""
    parser = common.parser(__doc__, "scheduler")
    parser.add_argument("--repeats", type=int, default=5, help="passes over all cells")
    parser.add_argument("--turns", type=int, default=500, help="in each cell of a pass")
    args = parser.parse_args()
    if args.quick:
        args.repeats, args.turns = 1, 20
    common.start(args)
    before = common.machine()
    cells: list[Cell] = [
        (policy, waiting, moving) for moving in (False, True) for policy in POLICIES for waiting in WAITING
    ]
    means: dict[Cell, list[float]] = {cell: [] for cell in cells}
    for repeat in range(args.repeats):
        for cell in cells if repeat % 2 == 0 else reversed(cells):
            bench = Bench(*cell)
            means[cell].append(statistics.fmean(bench.turn() for _ in range(args.turns)))
    micros = {cell: statistics.median(values) * 1e6 for cell, values in means.items()}
    base = micros["fifo", 0, False]
    table = Table(title=f"schedule(), {RUNNING} running; 1 = {base:.0f} us here")
    table.add_column("policy")
    for moving in (False, True):
        for waiting in WAITING:
            table.add_column(f"{waiting} waiting" + (", one ends, one comes" if moving else ""), justify="right")
    for policy in POLICIES:
        row = (micros[policy, waiting, moving] / base for moving in (False, True) for waiting in WAITING)
        table.add_row(policy, *(f"{ratio:.2f}" for ratio in row))
    common.console.print(table)
    if not args.quick:
        ratios = {
            f"{policy}, {n} waiting, {'moving' if moving else 'still'}": us / base
            for (policy, n, moving), us in micros.items()
        }
        common.write(args.output, before, {"base_microseconds": base, "ratios": ratios})


if __name__ == "__main__":
    main()
