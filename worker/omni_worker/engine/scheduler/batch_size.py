"""How many calls of one key to put together: found online, from the time that batches of each size took.

A batch of B takes about t(B) = a + b·B. Doubling it raises throughput by 2(a + b·B) / (a + 2b·B); where that is worth
less than five per cent, which is above B = 9.5 a/b, a larger batch only makes every request in it wait.
"""

from collections.abc import Hashable
from dataclasses import dataclass

FORGET = 0.98
WORTH_DOUBLING = 1.05
MAX_KEYS = 256


@dataclass
class Fit:
    """The batches of one key: their number, that of their calls, their seconds, and the weighted sums of a
    least-squares line through (B, t), in which old measurements fade."""

    batches: int = 0
    calls: int = 0
    seconds: float = 0.0
    weight: float = 0.0
    size: float = 0.0
    time: float = 0.0
    size_size: float = 0.0
    size_time: float = 0.0

    def add(self, size: int, seconds: float) -> None:
        for name, value in (
            ("weight", 1.0),
            ("size", size),
            ("time", seconds),
            ("size_size", size * size),
            ("size_time", size * seconds),
        ):
            setattr(self, name, getattr(self, name) * FORGET + value)

    @property
    def line(self) -> tuple[float, float] | None:
        """(a, b), seconds and seconds a call; None while all batches had one size."""
        spread = self.weight * self.size_size - self.size**2
        if self.weight == 0.0 or spread < 1e-6 * self.weight**2:
            return None
        b = (self.weight * self.size_time - self.size * self.time) / spread
        return (self.time - b * self.size) / self.weight, b


class BatchSizes:
    """Learns from what `ran`, and says in `limit` how far a batch of a key should grow, at most `bound`."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self.fits: dict[Hashable, Fit] = {}
        self._bounds: dict[Hashable, int] = {}

    def ran(self, key: Hashable, size: int, seconds: float | None) -> None:
        """A batch of `size` calls took `seconds`; None where it was no usual one, to learn from."""
        fit = self.fits.pop(key, None) or Fit()
        fit.batches += 1
        fit.calls += size
        if seconds is not None:
            fit.seconds += seconds
            fit.add(size, seconds)
        self.fits[key] = fit
        if len(self.fits) > MAX_KEYS:
            del self.fits[next(iter(self.fits))]

    def too_large(self, key: Hashable, size: int) -> None:
        """A batch of `size` calls did not fit into the device's memory."""
        self._bounds[key] = max(1, min(self.bound(key), size // 2))

    def bound(self, key: Hashable) -> int:
        """How many calls of a key may be put together at all."""
        return self._bounds.get(key, self._bound)

    def limit(self, key: Hashable) -> int:
        """The size where growing stops paying; the bound where that is not known."""
        fit = self.fits.get(key)
        line = fit.line if fit else None
        if line is None or line[1] <= 0.0:
            return self.bound(key)
        a, b = line
        gain = 2.0 - WORTH_DOUBLING  # from 2(a + bB) = WORTH_DOUBLING · (a + 2bB)
        enough = gain * max(a, 0.0) / (2.0 * (WORTH_DOUBLING - 1.0) * b)
        return max(1, min(self.bound(key), int(enough + 1e-6)))

    def seconds(self, key: Hashable) -> float:
        """About how many seconds one more call of `key` adds to a batch; those of an average key where not known."""
        if (fit := self.fits.get(key)) is not None and fit.size > 0.0:
            line = fit.line
            return line[1] if line and line[1] > 0.0 else fit.time / fit.size
        total = sum(fit.size for fit in self.fits.values())
        return sum(fit.time for fit in self.fits.values()) / total if total > 0.0 else 1.0

    def batch_seconds(self, key: Hashable, size: int) -> float:
        """About how many seconds a batch of `size` calls takes; 0 where nothing is known."""
        fit = self.fits.get(key)
        if fit is None or fit.size == 0.0 or size == 0:
            return 0.0
        line = fit.line
        if line and line[1] > 0.0:
            return max(line[0], 0.0) + line[1] * size
        return fit.time / fit.size * size
