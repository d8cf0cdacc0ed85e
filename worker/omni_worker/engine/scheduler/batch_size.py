"""Finds the batch size of each key online, from the measured times of batches of different sizes.

A batch of B calls takes about t(B) = a + b·B seconds. Doubling it raises throughput by 2(a + b·B) / (a + 2b·B). Above
B = 9.5 a/b that is less than five per cent: a larger batch only makes every request in it wait.
"""

from collections.abc import Hashable
from dataclasses import dataclass

FORGET = 0.98
WORTH_DOUBLING = 1.05
MAX_KEYS = 256


@dataclass
class Fit:
    """The measurements of one key.

    batches, calls, seconds: totals
    weight, size, time, size_size, size_time: weighted sums for a least-squares line through (B, t), in which old
        measurements fade
    """

    batches: int = 0
    calls: int = 0
    seconds: float = 0.0
    weight: float = 0.0
    size: float = 0.0
    time: float = 0.0
    size_size: float = 0.0
    size_time: float = 0.0

    def add(self, size: int, seconds: float) -> None:
        """Add the measurement of one batch."""
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
        """(a, b) in seconds and seconds per call; None while all batches had the same size."""
        spread = self.weight * self.size_size - self.size**2
        if self.weight == 0.0 or spread < 1e-6 * self.weight**2:
            return None
        b = (self.weight * self.size_time - self.size * self.time) / spread
        return (self.time - b * self.size) / self.weight, b


class BatchSizes:
    """Measures the batches of each key. `limit` is the size up to which a batch of a key should grow.

    With `find_limit` false, every batch may grow up to `bound`, or to what fits into the device's memory.
    """

    def __init__(self, bound: int, find_limit: bool = True) -> None:
        self._bound = bound
        self._find_limit = find_limit
        self.fits: dict[Hashable, Fit] = {}
        self._bounds: dict[Hashable, int] = {}

    def add_batch(self, key: Hashable, size: int) -> None:
        """A batch of `size` calls ran."""
        fit = self.fits.pop(key, None) or Fit()
        fit.batches += 1
        fit.calls += size
        self.fits[key] = fit
        if len(self.fits) > MAX_KEYS:
            del self.fits[next(iter(self.fits))]

    def add_time(self, key: Hashable, size: int, seconds: float) -> None:
        """A batch of `size` calls took `seconds`, and the next such batch will probably take as long."""
        if (fit := self.fits.get(key)) is not None:
            fit.seconds += seconds
            fit.add(size, seconds)

    def too_large(self, key: Hashable, size: int) -> None:
        """A batch of `size` calls did not fit into the device's memory."""
        self._bounds[key] = max(1, min(self.bound(key), size // 2))

    def bound(self, key: Hashable) -> int:
        """The largest batch of a key that is allowed, and that fits into the device's memory as far as is known."""
        return self._bounds.get(key, self._bound)

    def limit(self, key: Hashable) -> int:
        """The size at which growing stops to pay; the bound while that is unknown, or without `find_limit`."""
        if not self._find_limit:
            return self.bound(key)
        fit = self.fits.get(key)
        line = fit.line if fit else None
        if line is None or line[1] <= 0.0:
            return self.bound(key)
        a, b = line
        gain = 2.0 - WORTH_DOUBLING  # from 2(a + bB) = WORTH_DOUBLING · (a + 2bB)
        enough = gain * max(a, 0.0) / (2.0 * (WORTH_DOUBLING - 1.0) * b)
        return max(1, min(self.bound(key), int(enough + 1e-6)))

    def seconds_per_call(self, key: Hashable) -> float:
        """Seconds that one more call of `key` adds to a batch; the mean of all keys if it was never measured."""
        if (fit := self.fits.get(key)) is not None and fit.size > 0.0:
            line = fit.line
            return line[1] if line and line[1] > 0.0 else fit.time / fit.size
        total = sum(fit.size for fit in self.fits.values())
        return sum(fit.time for fit in self.fits.values()) / total if total > 0.0 else 1.0

    def batch_seconds(self, key: Hashable, size: int) -> float:
        """Predicted seconds for a batch of `size` calls; 0 if the key was never measured."""
        fit = self.fits.get(key)
        if fit is None or fit.size == 0.0 or size == 0:
            return 0.0
        line = fit.line
        if line and line[1] > 0.0:
            return max(line[0], 0.0) + line[1] * size
        return fit.time / fit.size * size
