"""A pending call of one of a pipeline's models, with what merging needs to know of its arguments."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from omni_worker.pipelines.batching.collators import Collator
from omni_worker.pipelines.batching.effects import Outcome, changes_since, take_snapshot, with_places, write
from omni_worker.pipelines.batching.structure import OpaqueValue, describe, flat_values, map_tensors
from omni_worker.pipelines.request_context import RequestContext

MAIN_ARGUMENTS = ("hidden_states", "sample", "x", "input_ids")


class Leaf(NamedTuple):
    """A tensor among a call's arguments, and the name of the argument that holds it."""

    name: str
    value: Tensor

    @property
    def is_mask(self) -> bool:
        """Whether it selects which of the other values count. With different masks, a model may take another path."""
        return "mask" in self.name or (self.value.dim() > 1 and not self.value.is_floating_point())


@dataclass(frozen=True)
class Call:
    """A pending call of a model's method, made by the request of `context`.

    phase: `encode`, `denoise` or `decode`
    model: the model's name in the pipeline; with the method, if that is not `forward`
    target: what to call with `args` and `kwargs`
    changes: what the request has changed in its copy of the model, which `target` then runs: equal for changes of equal
        effect, empty if `target` is the shared model, None if the changes cannot be compared
    """

    phase: str
    model: str
    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    context: RequestContext
    collator: Collator | None = None
    changes: Hashable | None = ()

    @cached_property
    def rows(self) -> int:
        """The size of the batch dimension, which is the first dimension of the main argument."""
        for value in (*(self.kwargs.get(name) for name in MAIN_ARGUMENTS), *self.args, *self.kwargs.values()):
            if isinstance(value, Tensor) and value.dim():
                return int(value.shape[0])
            if isinstance(value, list) and value and isinstance(value[0], Tensor):
                return len(value)
        return 1

    @cached_property
    def leaves(self) -> list[Leaf]:
        """The tensors among the arguments, in the order in which `merging` visits them."""
        leaves: list[Leaf] = []
        describe((self.args, self.kwargs), lambda name, value: leaves.append(Leaf(name, value)))
        return leaves

    @property
    def generators(self) -> list[torch.Generator]:
        """The random generators among the arguments."""
        return [item for item in flat_values((self.args, self.kwargs)) if isinstance(item, torch.Generator)]

    @property
    def signature(self) -> Hashable:
        """Everything that must be equal for `merging` to merge calls. Raises OpaqueValue if it cannot be determined."""

        collator, kwargs = self.collator, self.kwargs
        if collator is None:
            described = describe((self.args, kwargs), lambda name, value: (value.shape, value.dtype))
        else:
            kwargs = {name: value for name, value in kwargs.items() if name != collator.mask}
            described = describe(
                (self.args, kwargs), lambda name, value: (collator.shape(name, value.shape), value.dtype)
            )
        return self.model, self.rows, self.context.signature, self.changes, described

    @property
    def random_states(self) -> list[Tensor]:
        """The states of the random generators that the call can draw from."""
        return [self.context.random_state, *(generator.get_state() for generator in self.generators)]

    def restore_random_states(self, states: list[Tensor]) -> None:
        """Set the random generators to earlier `random_states`."""
        own, *others = [state.clone() for state in states]  # torch reads a state from the start of its storage
        self.context.random_state = own
        for generator, state in zip(self.generators, others, strict=True):
            generator.set_state(state)

    @property
    def is_known(self) -> bool:
        """Whether everything among the arguments is known, so that they can be copied."""
        try:
            self.leaves  # noqa: B018
        except OpaqueValue:
            return False
        return True

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> "Call":
        """The same call, with containers of its own, in which `function` has replaced each tensor."""
        args, kwargs = map_tensors((self.args, self.kwargs), function)
        return replace(self, args=args, kwargs=kwargs)

    def copy(self) -> "Call":
        """The same call with containers of its own, because some models write to theirs."""
        return self.map_tensors(_same)

    def run(self) -> Any:
        """Compute the result as the pipeline would: alone, and in the request's own context."""
        with self.context.active():
            return self.target(*self.args, **self.kwargs)

    def compute(self) -> Outcome:
        """What `run` would return and write, without writing it. If nothing is known of an argument, it is written."""
        if not self.is_known:
            return Outcome(self.run(), {})
        copied = self.copy()
        snapshot = take_snapshot(copied.args, copied.kwargs)
        result = copied.run()
        return Outcome(with_places(result, snapshot), changes_since(snapshot))

    def accept(self, outcome: Outcome) -> Any:
        """Write what the outcome says to the call's own arguments. Returns the result."""
        if outcome.changes:
            vars(self).pop("leaves", None)
        return write(outcome, self.args, self.kwargs)


def _same(tensor: Tensor) -> Tensor:
    return tensor
