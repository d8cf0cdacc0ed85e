"""Pipeline parallelism: each rank of a replica has some of the model's layers, and passes its states to the next rank.

A rank receives the hidden states of the previous rank, runs its own layers on them, and sends the result to the next
rank. The last rank has the scores. It broadcasts the sampled tokens to all ranks, so that every rank has the output of
every request. A failure on any rank takes the same way, and fails the call on all ranks.
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
_HEADER_SIZE = 8  # dtype, number of dimensions, shape, zeros
_ERROR = -1  # takes the place of the dtype: a pickled error of so many bytes follows


class Chain:
    """This process's place in a chain of `size` ranks, which joined a group before. A single one has all layers."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size
        self.is_first = rank == 0
        self.is_last = rank == size - 1
        self._has_received = self._has_sent = False

    def share(self, count: int) -> range:
        """The indices of this rank's layers among `count`: consecutive, and as evenly distributed as possible."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def minimum(self, number: int) -> int:
        """The smallest number that any rank passes. All ranks must call this."""
        if self.size > 1:
            smallest = torch.tensor([number])
            dist.all_reduce(smallest, dist.ReduceOp.MIN)
            return int(smallest)
        return number

    def receive(self, device: torch.device) -> Tensor:
        """The states from the previous rank. Raises the error if it failed there."""
        self._has_received = True
        header = torch.empty(_HEADER_SIZE, dtype=torch.int64)
        dist.recv(header, self.rank - 1)
        dtype, dims, *shape = header.tolist()
        if dtype == _ERROR:
            pickled = torch.empty(dims, dtype=torch.uint8)
            dist.recv(pickled, self.rank - 1)
            raise pickle.loads(pickled.numpy().tobytes())
        states = torch.empty(shape[:dims], dtype=WIRE_DTYPES[dtype], device=device)
        dist.recv(states, self.rank - 1)
        return states

    def send(self, states: Tensor) -> None:
        """Send this rank's states to the next rank."""
        self._has_sent = True
        header = [WIRE_DTYPES.index(states.dtype), states.dim(), *states.shape]
        dist.send(torch.tensor([*header, *[0] * (_HEADER_SIZE - len(header))]), self.rank + 1)
        dist.send(states.contiguous(), self.rank + 1)

    def run_on_all(self, call: Callable[[], list[int]], count: int) -> list[int]:
        """Run the same call on all ranks; returns the `count` numbers that it gives on the last rank.

        `call` must receive on every rank except the first, and send on every rank except the last. If it fails on any
        rank, this raises the first error on all of them.
        """
        if self.size == 1:
            return call()
        self._has_received, self._has_sent = self.is_first, self.is_last
        numbers, failure = [0] * count, None
        try:
            numbers = call()
        except Exception as error:
            failure = self._complete_exchange(_with_rank(error, self.rank))
        return self._broadcast(numbers, failure, count)

    def _complete_exchange(self, failure: Exception) -> Exception:
        """After a failure, receive and send what the neighbours still wait for; returns the error that came first."""
        if not self._has_received:
            try:
                self.receive(torch.device("cpu"))
            except Exception as earlier:
                failure = earlier
        if not self._has_sent:
            pickled = pickle.dumps(failure)
            dist.send(torch.tensor([_ERROR, len(pickled), *[0] * (_HEADER_SIZE - 2)]), self.rank + 1)
            dist.send(torch.frombuffer(bytearray(pickled), dtype=torch.uint8), self.rank + 1)
        return failure

    def _broadcast(self, numbers: list[int], failure: Exception | None, count: int) -> list[int]:
        """The last rank's numbers, on all ranks; raises its failure on all of them."""
        pickled = pickle.dumps(failure) if failure is not None and self.is_last else b""
        message = torch.tensor([len(pickled), *(numbers if self.is_last and not pickled else [0] * count)])
        dist.broadcast(message, self.size - 1)
        if length := int(message[0]):
            sent = torch.frombuffer(bytearray(pickled.ljust(length)), dtype=torch.uint8)
            dist.broadcast(sent, self.size - 1)
            raise pickle.loads(sent.numpy().tobytes())
        return [int(number) for number in message[1:]]


def _with_rank(error: Exception, rank: int) -> Exception:
    sent = portable(error)
    sent.add_note(f"on rank {rank}: {''.join(traceback.format_exception(error))}".rstrip())
    return sent


def keep_own_layers(model: Any, decoder: Any, chain: Chain) -> None:
    """Drop the layers of other ranks from a model; its first own layer receives, and its last one sends.

    The first rank keeps the embedding, the last one the head. Raises ValueError if there are fewer layers than ranks.
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
        layers[own[0]].register_forward_pre_hook(
            lambda _, args, kwargs: _with_received(chain, args, kwargs), with_kwargs=True
        )
        model.get_input_embeddings().to("meta")
    if not chain.is_last:
        layers[own[-1]].register_forward_hook(lambda _, args, output: chain.send(output))
        if (head := model.get_output_embeddings()) is not None:
            head.to("meta")


def _pass_through(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return hidden_states


def _with_received(
    chain: Chain, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A layer's arguments, with the states of the previous rank in place of its hidden states."""
    states = chain.receive((args[0] if args else kwargs["hidden_states"]).device)
    return ((states, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": states})
