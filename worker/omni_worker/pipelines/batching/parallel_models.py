"""Which models several ranks run together, and whether they can divide a call's sequences among them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from omni_worker.errors import RequestError
from omni_worker.pipelines.batching.calls import Call
from omni_worker.pipelines.batching.collators import MASKS_ARE_RIGHT_UP_TO


class SplitArgument(NamedTuple):
    """An argument of a model that is divided along `dim` if it has `dims` dimensions."""

    dim: int
    dims: int | None


@dataclass(frozen=True)
class ParallelModels:
    """The models of a pipeline that are computed by several ranks at once.

    takes_masks: whether ranks can divide an attention with a mask
    degree: how many consecutive ranks run each call of these models; those of other models run on one rank
    splits: by the model's name in the pipeline: its arguments that are divided along a sequence, by their names
    """

    degree: int = 1
    splits: Mapping[str, Mapping[str, SplitArgument]] = field(default_factory=dict)
    takes_masks: bool = True

    def ranks_of(self, call: Call) -> int:
        """How many ranks run the call together."""
        return self.degree if call.model in self.splits else 1

    def require_divisible(self, call: Call) -> None:
        """Raises RequestError if the ranks cannot divide the call's sequences."""
        lengths = self._lengths(call)
        if short := {name: length for name, length in lengths.items() if length < self.degree}:
            raise self._indivisible(short, f"they need {self.degree} positions or more")
        if not self.takes_masks and (masks := [name for name in lengths if "mask" in name]):
            raise RequestError("invalid", f"ring attention takes no {masks[0]}: serve it with parallelism.ulysses")
        uneven = {name: length for name, length in lengths.items() if length % self.degree}
        if uneven and self.degree > MASKS_ARE_RIGHT_UP_TO and any("mask" in name for name in lengths):
            raise self._indivisible(uneven, "with a mask they must be multiples of it; choose another size or prompt")

    def guarded(self, compute: Callable[[], Any]) -> Callable[[], Any]:
        """The same computation. It raises RequestError where diffusers refuses to divide a sequence."""

        def run() -> Any:
            try:
                return compute()
            except AssertionError as error:
                raise RequestError(
                    "invalid", f"{self.degree} devices cannot divide what this request computes: {error}"
                ) from error

        return run

    def _lengths(self, call: Call) -> dict[str, int]:
        """The lengths of the sequences among the call's arguments, by the arguments' names."""
        found: dict[str, int] = {}
        for name, (dim, dims) in self.splits[call.model].items():
            value = call.kwargs.get(name)
            if isinstance(value, Tensor) and value.dim() > dim and dims in (None, value.dim()):
                found[name] = value.shape[dim]
        return found

    def _indivisible(self, lengths: Mapping[str, int], expected: str) -> RequestError:
        described = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        return RequestError(
            "invalid", f"{self.degree} devices cannot divide the sequences of this request ({described}): {expected}"
        )
