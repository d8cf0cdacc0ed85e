"""Answers model calls of a request without computing them, where its predictions change smoothly from step to step.

A request's predictions in two earlier steps determine a straight line over the steps, and the line's value at this step
is the answer. A line through two values is as accurate as the values are far from curved: its error at step s, through
the values of steps a and b, grows with (s - a)(s - b). So whenever a step is computed, the line from before is compared
with the truth, and the measured error is scaled to the steps that follow. They are skipped while that predicted error,
relative to the prediction, is within the request's tolerance.

The decisions use nothing but the request's own predictions. They are made once a step, for all of its model calls: with
guidance, both branches are skipped together. The first three steps are always computed, since two values and one
comparison are needed, and so is the last one.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from omni_worker.pipelines.batching.calls import Call
from omni_worker.pipelines.batching.keys import BatchKey
from omni_worker.pipelines.batching.structure import (
    IDENTITY_TYPES,
    VALUE_TYPES,
    flat_values,
    object_fields,
    parts,
    rebuild,
)
from omni_worker.pipelines.components import DENOISE
from omni_worker.pipelines.protocol import StepState
from omni_worker.requests import CacheSettings

Series = tuple[Hashable, ...]
"""The calls of different steps that follow each other: those of one model, with one index in the step and one key."""


@dataclass
class Values:
    """The last two computed results of a series, and how well a line predicted the last one.

    steps: in which they were computed
    results: trees of tensors
    error: of the line through the two results before, relative to the last one, for each unit of (s - a)(s - b)
    """

    steps: list[int] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)
    error: Tensor | None = None

    def add(self, step: int, result: Any) -> None:
        """Take the computed result of a step, and compare the line with it."""
        if len(self.results) == 2:
            self.error = _relative_error(self.at(step), result) / self.distance(step)
        self.steps, self.results = [*self.steps[-1:], step], [*self.results[-1:], _map(torch.clone, [result])]

    def at(self, step: int) -> Any:
        """The value of the line at a step."""
        (a, b), weight = self.steps, (step - self.steps[1]) / (self.steps[1] - self.steps[0])
        assert a < b < step, "steps are computed in their order"
        return _map(lambda before, last: _line(before, last, weight), self.results)

    def distance(self, step: int) -> int:
        """What the error of the line at a step is proportional to."""
        return (step - self.steps[0]) * (step - self.steps[1])


class Skipping:
    """The skipped calls of one request.

    skipped: how many calls were answered without being computed
    """

    def __init__(self, settings: CacheSettings) -> None:
        self._settings = settings
        self._values: dict[Series, Values] = {}
        self._step = -1
        self._last_calls: list[Series] = []
        self._calls: list[Series] = []
        self._skips = False
        self._in_a_row = 0
        self.skipped = 0

    def answer(self, call: Call, key: BatchKey, index: int, state: StepState) -> tuple[Any, ...]:
        """The answer to a call that the pipeline makes, as the only item; empty if the call must be computed."""
        if call.phase != DENOISE:
            return ()
        if state.step != self._step:
            self._begin_step(state)
        series = _series(call, key, index)
        self._calls.append(series)
        if not self._skips or series not in self._values or not _is_pure(call):
            return ()
        self.skipped += 1
        return (self._values[series].at(state.step),)

    def add_computed(self, call: Call, key: BatchKey, index: int, result: Any) -> None:
        """Take the computed result of the call that was passed to `answer` last."""
        if call.phase != DENOISE:
            return
        values = self._values.setdefault(_series(call, key, index), Values())
        if _can_extrapolate(result) and self._step not in values.steps:
            values.add(self._step, result)

    def _begin_step(self, state: StepState) -> None:
        follows, self._step = state.step == self._step + 1, state.step
        self._last_calls, self._calls = self._calls, []
        is_last = state.step + 1 >= state.total_steps
        self._skips = (
            follows and not is_last and self._in_a_row < self._settings.max_consecutive and self._is_smooth(state.step)
        )
        self._in_a_row = self._in_a_row + 1 if self._skips else 0

    def _is_smooth(self, step: int) -> bool:
        """Whether the lines of all calls of the last step probably stay within the tolerance at this one."""
        last = [self._values.get(series) for series in self._last_calls]
        return bool(last) and all(
            values is not None
            and values.error is not None
            and float(values.error) * values.distance(step) <= self._settings.tolerance
            for values in last
        )


def _series(call: Call, key: BatchKey, index: int) -> Series:
    return call.model, index, key


def _is_pure(call: Call) -> bool:
    """Whether a call has no other effect than its result: it draws no random numbers, and fills no object."""
    plain = (Tensor, *VALUE_TYPES, *IDENTITY_TYPES)
    arguments = call.args, call.kwargs
    return not _holds_object(arguments) and all(isinstance(value, plain) for value in flat_values(arguments))


def _holds_object(value: Any) -> bool:
    """Whether a tree holds more than mappings, sequences and values."""
    return object_fields(value) is not None or any(map(_holds_object, (parts(value) or {}).values()))


def _can_extrapolate(result: Any) -> bool:
    """Whether a result consists of tensors and plain values, and has real numbers to extrapolate."""
    if _holds_object(result):
        return False
    values = list(flat_values(result))
    return any(map(_is_real, values)) and all(
        not value.requires_grad if isinstance(value, Tensor) else isinstance(value, VALUE_TYPES) for value in values
    )


def _line(before: Tensor, last: Tensor, weight: float) -> Tensor:
    """`weight` 0 is the last value, -1 the one before. Computed in float32 at least; other numbers stay as they are."""
    if not last.is_floating_point() or before.shape != last.shape:
        return last.clone()
    wide = torch.promote_types(last.dtype, torch.float32)
    return torch.lerp(last.to(wide), before.to(wide), -weight).to(last.dtype)


def _relative_error(predicted: Any, computed: Any) -> Tensor:
    """The distance of two results, relative to the norm of the second. Sums are float64, so that all ranks agree."""
    pairs = [(a, b) for a, b in zip(flat_values(predicted), flat_values(computed), strict=True) if _is_real(b)]
    return _norm([a.to(torch.float32) - b for a, b in pairs]) / _norm([b for _, b in pairs]).clamp_min(1e-30)


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    norms = [torch.linalg.vector_norm(tensor, dtype=torch.float64) for tensor in tensors]
    return torch.linalg.vector_norm(torch.stack(norms))


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _map(function: Any, trees: Sequence[Any]) -> Any:
    """A tree of the same form as all of `trees`, with `function` of their tensors in each place."""
    first = trees[0]
    if isinstance(first, Tensor):
        return function(*trees)
    items = [parts(tree) or {} for tree in trees]
    if not items[0]:
        return first
    return rebuild(first, {name: _map(function, [one[name] for one in items]) for name in items[0]})
