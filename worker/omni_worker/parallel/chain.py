"""The ranks of a replica that have a part of the model's layers each, one after another.

A rank takes what the one before made of the tokens, and gives the next one what it made of that: intermediate tensors.
The last one has the scores, and tells all others what came of them, so that every rank knows what every request has
written, and they all go on with the same. A failure on any rank goes the same way: it fails the call on all of them.
"""

import pickle
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from omni_worker.errors import portable

WIRE_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_HEADER = 8
_FAILED = -1


class Chain:
    """This process's place among `size` ranks, which have met before. One alone has all layers."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size
        self.is_first = rank == 0
        self.is_last = rank == size - 1
        self._took = self._gave = False

    def share(self, count: int) -> range:
        """Which of `count` layers this rank has: neighbours, as evenly as can be."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def least(self, number: int) -> int:
        """The smallest of the ranks' numbers."""
        if self.size > 1:
            told = torch.tensor([number])
            dist.all_reduce(told, dist.ReduceOp.MIN)
            return int(told)
        return number

    def take(self, device: torch.device) -> Tensor:
        """What the rank before made. Raises what failed there."""
        self._took = True
        header = torch.empty(_HEADER, dtype=torch.int64)
        dist.recv(header, self.rank - 1)
        kind, dims, *shape = header.tolist()
        if kind == _FAILED:
            note = torch.empty(dims, dtype=torch.uint8)
            dist.recv(note, self.rank - 1)
            raise pickle.loads(note.numpy().tobytes())
        states = torch.empty(shape[:dims], dtype=WIRE_DTYPES[kind], device=device)
        dist.recv(states, self.rank - 1)
        return states

    def give(self, states: Tensor) -> None:
        """Hand over to the next rank what this one made."""
        self._gave = True
        header = [WIRE_DTYPES.index(states.dtype), states.dim(), *states.shape]
        dist.send(torch.tensor([*header, *[0] * (_HEADER - len(header))]), self.rank + 1)
        dist.send(states.contiguous(), self.rank + 1)

    def conclude(self, call: Callable[[], list[int]], count: int) -> list[int]:
        """Make the same call on all ranks; the `count` numbers that it gives on the last one, on all.

        On every rank but the first it takes, and on every one but the last it gives. Raises on all what failed on any.
        """
        if self.size == 1:
            return call()
        self._took, self._gave = self.is_first, self.is_last
        numbers, failure = [0] * count, None
        try:
            numbers = call()
        except Exception as error:
            failure = _noted(error, self.rank)
            failure = self._pass_on(failure)
        return self._all_told(numbers, failure, count)

    def _pass_on(self, failure: Exception) -> Exception:
        """Leave nothing half done between two ranks; the failure that came first."""
        if not self._took:
            try:
                self.take(torch.device("cpu"))
            except Exception as earlier:
                failure = earlier
        if not self._gave:
            note = pickle.dumps(failure)
            dist.send(torch.tensor([_FAILED, len(note), *[0] * (_HEADER - 2)]), self.rank + 1)
            dist.send(torch.frombuffer(bytearray(note), dtype=torch.uint8), self.rank + 1)
        return failure

    def _all_told(self, numbers: list[int], failure: Exception | None, count: int) -> list[int]:
        note = pickle.dumps(failure) if failure is not None and self.is_last else b""
        told = torch.tensor([len(note), *(numbers if self.is_last and not note else [0] * count)])
        dist.broadcast(told, self.size - 1)
        if length := int(told[0]):
            sent = torch.frombuffer(bytearray(note.ljust(length)), dtype=torch.uint8)
            dist.broadcast(sent, self.size - 1)
            raise pickle.loads(sent.numpy().tobytes())
        return [int(number) for number in told[1:]]


def _noted(error: Exception, rank: int) -> Exception:
    sent = portable(error)
    sent.add_note(f"on rank {rank}: {''.join(traceback.format_exception(error))}".rstrip())
    return sent


def keep_own_layers(model: Any, decoder: Any, chain: Chain) -> None:
    """Leave a rank its own layers, and have its first one take, and its last one give, what is between them and others.

    The first rank keeps the embedding, the last one the head. Raises ValueError where there are not so many layers.
    """
    layers = next(
        (part for part in decoder.children() if isinstance(part, torch.nn.ModuleList) and len(part) > 0),
        torch.nn.ModuleList(),
    )
    if len(layers) < chain.size:
        raise ValueError(f"{len(layers)} layers cannot be spread over {chain.size} ranks: ask for fewer")
    own = chain.share(len(layers))
    for i, layer in enumerate(layers):
        if i not in own:
            layer.to("meta")
            layer.forward = _pass_through
    if not chain.is_first:
        layers[own[0]].register_forward_pre_hook(lambda _, args, told: _taken(chain, args, told), with_kwargs=True)
        model.get_input_embeddings().to("meta")
    if not chain.is_last:
        layers[own[-1]].register_forward_hook(lambda _, args, output: chain.give(output))
        if (head := model.get_output_embeddings()) is not None:
            head.to("meta")


def _pass_through(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return hidden_states


def _taken(chain: Chain, args: tuple[Any, ...], told: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A layer's arguments, with the states of the rank before in the place of the first one."""
    states = chain.take((args[0] if args else told["hidden_states"]).device)
    return ((states, *args[1:]), told) if args else (args, {**told, "hidden_states": states})
