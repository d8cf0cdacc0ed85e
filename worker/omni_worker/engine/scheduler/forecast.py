"""When the requests that are held will end: what one that finds no place is told, and what the metrics show.

`Pace` learns from the turns that were; `end_times` plays those to come, with all that run advancing evenly. So a
prediction is right in the mean where the work goes on as it did; it knows nothing of what priorities will do.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import islice

FORGET = 0.995
UNKNOWN_SECONDS = 1.0

Together = Counter[Hashable | None]
"""How many of the requests that run have their next call under which key; None where that is not known."""


@dataclass
class Pace:
    """How long steps really take: sums over past turns, in which old ones fade.

    A turn takes longer than the model call that ends a step: there are the calls with another prompt, encoding,
    decoding, and all that the host does. `stretch` is by how much.
    """

    _seconds: float = 0.0
    _steps: float = 0.0
    _modelled: float = 0.0

    def turned(self, seconds: float, steps: int, modelled: float) -> None:
        """A turn took `seconds` and brought requests `steps` nearer to their ends; its share of the calls that did so
        was `modelled` seconds."""
        self._seconds = self._seconds * FORGET + seconds
        self._steps = self._steps * FORGET + steps
        self._modelled = self._modelled * FORGET + modelled

    @property
    def step_seconds(self) -> float:
        """Seconds for one step of one request, while as many ran beside it as lately did."""
        return self._seconds / self._steps if self._steps else UNKNOWN_SECONDS

    @property
    def stretch(self) -> float:
        """Seconds that passed for every second of modelled calls."""
        return self._seconds / self._modelled if self._modelled else 1.0


def end_times(
    running: Iterable[tuple[int, Hashable | None]],
    waiting: Iterable[tuple[int, Hashable | None]],
    places: int,
    round_seconds: Callable[[Together], float],
) -> Iterator[float]:
    """Seconds until the first, the second, … of the requests has ended.

    A request is its steps left and its key. The waiting take places as they become free, in their order; of all that
    run, each does one step in every round of `round_seconds`.
    """
    first, queue = list(running), iter(waiting)
    first += islice(queue, max(0, places - len(first)))
    held = [(steps, number, key) for number, (steps, key) in enumerate(first)]
    heapify(held)
    number = len(held)
    together: Together = Counter(key for _, _, key in held)
    rounds, seconds = 0, 0.0
    while held:
        last_round, _, key = heappop(held)
        seconds += (last_round - rounds) * round_seconds(together)
        rounds = last_round
        together[key] -= 1
        yield seconds
        for steps, key in queue:
            heappush(held, (rounds + steps, number, key))
            together[key] += 1
            number += 1
            break
