"""One pending call of one of a pipeline's models."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from omni_worker.pipelines.batching.collators import Collator
from omni_worker.pipelines.batching.structure import describe, mapped, walk
from omni_worker.pipelines.request_context import RequestContext

MAIN_ARGUMENTS = ("hidden_states", "sample", "x", "input_ids")


class Leaf(NamedTuple):
    """A tensor among a call's arguments, and the name of the argument that holds it."""

    name: str
    value: Tensor

    @property
    def is_mask(self) -> bool:
        """Whether it says which of the other values count: where masks differ, a model may take another path."""
        return "mask" in self.name or (self.value.dim() > 1 and not self.value.is_floating_point())


@dataclass(frozen=True)
class Call:
    """A pending call of a model's method, by the request whose `context` it belongs to.

    may_share: whether the model is as all requests know it, so that the call may join others
    """

    phase: str
    model: str
    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    context: RequestContext
    collator: Collator | None = None
    may_share: bool = True

    @cached_property
    def rows(self) -> int:
        """How long the batch dimension is: the first dimension of the main argument."""
        for value in (*(self.kwargs.get(name) for name in MAIN_ARGUMENTS), *self.args, *self.kwargs.values()):
            if isinstance(value, Tensor) and value.dim():
                return int(value.shape[0])
            if isinstance(value, list) and value and isinstance(value[0], Tensor):
                return len(value)
        return 1

    @cached_property
    def leaves(self) -> list[Leaf]:
        """The tensors among the arguments, in the order in which `merging` meets them."""
        leaves: list[Leaf] = []
        describe((self.args, self.kwargs), lambda name, value: leaves.append(Leaf(name, value)))
        return leaves

    @property
    def generators(self) -> list[torch.Generator]:
        """The random generators among the arguments."""
        return [item for item in walk((self.args, self.kwargs)) if isinstance(item, torch.Generator)]

    @property
    def signature(self) -> Hashable:
        """Whatever must be equal for `merging` to put calls together. Raises Opaque where that cannot be known."""

        collator, kwargs = self.collator, self.kwargs
        if collator is None:
            described = describe((self.args, kwargs), lambda name, value: (value.shape, value.dtype))
        else:
            kwargs = {name: value for name, value in kwargs.items() if name != collator.mask}
            described = describe(
                (self.args, kwargs), lambda name, value: (collator.shape(name, value.shape), value.dtype)
            )
        return self.model, self.rows, self.context.signature, described

    def copy(self) -> "Call":
        """The same call with lists and mappings of its own: some models take theirs apart."""
        return replace(self, args=mapped(self.args, _same), kwargs=mapped(self.kwargs, _same))

    def run(self) -> Any:
        """The answer, computed as the pipeline would have: alone, and in its request's own context."""
        with self.context.active(runs_model=True):
            return self.target(*self.args, **self.kwargs)


def _same(tensor: Tensor) -> Tensor:
    return tensor
