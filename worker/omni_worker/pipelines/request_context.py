"""The process-wide state that belongs to one request while its pipeline runs. It is switched with the greenlets.

A pipeline's own code may enable gradients or inference mode, draw from the global random generators, or select kernels.
Its greenlet can be suspended in the middle of that, and other requests run in the same thread. So each request gets its
own state back when its greenlet resumes, and the caller's state is restored when it stops. What a pipeline changes in
its models is not here: each request has its own copy of them.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._device
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from torch import Tensor

from omni_worker.device.random_state import random_state, seeded_random_state, set_random_state
from omni_worker.pipelines.adapter_layers import Rows, Selection, exchange_rows

DEVICES = ("cpu", "cuda")

Autocast = tuple[torch.dtype | None, ...]
# Switches that a pipeline may set around its model calls: how each is read, and how it is set.
SWITCHES: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch._C._get_flash_sdp_enabled, torch._C._set_sdp_use_flash),
    (torch._C._get_mem_efficient_sdp_enabled, torch._C._set_sdp_use_mem_efficient),
    (torch._C._get_math_sdp_enabled, torch._C._set_sdp_use_math),
    (torch._C._get_cudnn_sdp_enabled, torch._C._set_sdp_use_cudnn),
    (torch._C._get_overrideable_sdp_enabled, torch._C._set_sdp_use_overrideable),
    (torch._C._get_fa3_sdp_enabled, torch._C._set_sdp_use_fa3),
    (torch._C._get_cudnn_deterministic, torch._C._set_cudnn_deterministic),
    (torch._C._get_cudnn_benchmark, torch._C._set_cudnn_benchmark),
    (lambda: torch.utils._device.CURRENT_DEVICE, lambda value: setattr(torch.utils._device, "CURRENT_DEVICE", value)),
    (lambda: _AttentionBackendRegistry._active_backend, _AttentionBackendRegistry.set_active_backend),
)


@dataclass(slots=True)
class ProcessState:
    """State of the thread or the process that can be switched.

    random: of the global random generators
    mode_count: how many modes intercept torch's functions, such as `with torch.device(...)`
    """

    grad: bool
    inference: bool
    random: Tensor
    autocast: Autocast
    switches: tuple[Any, ...]
    mode_count: int


class RequestContext:
    """One request's own process state. Within a `with` block of `active`, it replaces the caller's.

    needs_exact_bits: whether the request's results must not differ even by rounding
    asks_for_exact_bits: whether the client asked for that
    adapters: those of the request; None leaves the choice to the models' own state
    """

    asks_for_exact_bits = False

    def __init__(
        self,
        request_id: str,
        seed: int | None = None,
        needs_exact_bits: bool = False,
        adapters: Selection | None = None,
    ) -> None:
        self.request_id = request_id
        self.adapters = adapters
        self.rows = None if adapters is None else Rows([adapters])
        self.needs_exact_bits = needs_exact_bits
        self._state = _current_state()
        self._state.grad = False
        if seed is not None:
            self._state.random = seeded_random_state(seed)
        self._modes: list[Any] = []
        self._outer_inference: Any = None  # entered while the request is left in another inference mode than the caller

    @property
    def random_state(self) -> Tensor:
        """The state of the global random generators, as the request sees it."""
        return self._state.random

    @random_state.setter
    def random_state(self, state: Tensor) -> None:
        self._state.random = state

    @property
    def can_share_batch(self) -> bool:
        """Whether its calls can run together with those of a request with the same `signature`."""
        return self.is_comparable and not self.needs_exact_bits

    @property
    def is_comparable(self) -> bool:
        """Whether `signature` is all that the result of a call depends on besides its arguments."""
        return not self._state.grad and not self._modes

    @property
    def signature(self) -> Hashable:
        """What the result of a call depends on besides its arguments."""
        return self._state.autocast, self._state.switches, self._state.inference

    def active(self) -> "ActiveContext":
        """A context manager for a part of the request's own code, or for one of its model calls."""
        return ActiveContext(self)

    def enter(self) -> ProcessState:
        """Replace the caller's state by the request's. Returns the caller's."""
        outer = _current_state()
        if self._outer_inference is not None:
            self._outer_inference.__exit__(None, None, None)
            self._outer_inference = None
        _set_state(self._state, outer)
        while self._modes:
            torch._C._push_on_torch_function_stack(self._modes.pop())
        return outer

    def leave(self, outer: ProcessState) -> None:
        """Keep the present state for the request, and restore the caller's."""
        own = self._state = _current_state()
        self._modes = [torch._C._pop_torch_function_stack() for _ in range(own.mode_count - outer.mode_count)]
        if own.inference != outer.inference:
            self._outer_inference = torch._C._InferenceMode(outer.inference)
            self._outer_inference.__enter__()
        _set_state(outer, own)

    def close(self) -> None:
        """Forget the request's state, when it never runs again."""
        if self._outer_inference is not None:  # its destructor would turn the request's mode on again
            _ABANDONED.append(self._outer_inference)


class ActiveContext:
    """A block of code that runs in a request's context. It is a class because a generator would cost twice as much."""

    __slots__ = ("_context", "_outer", "_outer_rows")

    def __init__(self, context: RequestContext) -> None:
        self._context = context

    def __enter__(self) -> None:
        self._outer = self._context.enter()
        self._outer_rows = exchange_rows(self._context.rows)

    def __exit__(self, *_: object) -> None:
        exchange_rows(self._outer_rows)
        self._context.leave(self._outer)


_ABANDONED: list[Any] = []


def _current_state() -> ProcessState:
    return ProcessState(
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        random_state(),
        tuple([torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None for kind in DEVICES]),
        tuple([read() for read, _ in SWITCHES]),
        torch._C._len_torch_function_stack(),
    )


def _set_state(state: ProcessState, current: ProcessState) -> None:
    """Set everything except the inference mode and the modes that intercept functions."""
    torch._C._set_grad_enabled(state.grad)
    set_random_state(state.random)
    if state.autocast != current.autocast:
        for device, dtype in zip(DEVICES, state.autocast, strict=True):
            torch.set_autocast_enabled(device, dtype is not None)
            if dtype is not None:
                torch.set_autocast_dtype(device, dtype)
    if state.switches != current.switches:
        for (_, write), value in zip(SWITCHES, state.switches, strict=True):
            write(value)
