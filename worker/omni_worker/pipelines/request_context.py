"""What of the process's state belongs to one request while its pipeline runs: switched as a thread's registers are.

A pipeline's own code may turn gradients on, draw from the global random generator, set attention processors by name or
hang a hook on a layer. Its greenlet is suspended in the midst of that, and others run on the same models; so each gets
its own when it goes on, and leaves things as they were when it stops.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import default_generator
from torch.utils.hooks import RemovableHandle

ATTRIBUTES = ("processor", "enabled", "mix_ratio")  # those of layers that diffusers' pipelines set
HOOKS = ("_forward_hooks", "_forward_pre_hooks")
DEVICES = ("cpu", "cuda")
SETTLING_RUNS = 100

Autocast = tuple[torch.dtype | None, ...]
Outer = tuple[bool, torch.Tensor, Autocast]


class ModelState:
    """What pipelines change in models that all requests share: attention processors, switches, hooks.

    A model may change these itself when it runs, once for all (transformers hangs its hooks so): that is kept.
    """

    def __init__(self, models: Sequence[torch.nn.Module]) -> None:
        layers = {id(layer): layer for model in models for layer in model.modules()}.values()
        self._places = [(vars(layer), name) for layer in layers for name in vars(layer) if name in ATTRIBUTES]
        self._usual = [own[name] for own, name in self._places]
        self._hooks = [vars(layer)[name] for layer in layers for name in HOOKS]
        self._usual_hooks = [dict(hooks) for hooks in self._hooks]
        self._handles = RemovableHandle.next_id  # counts all hooks that were ever hung, on whatever
        self._runs = 0

    def take_changes(self, had_changes: bool) -> "Changes | None":
        """What differs from the usual after some of a request's own code, and is put back; None where nothing does.

        This runs whenever a request stops, so it has to be quick where nothing has changed, which is nearly always.
        """
        present = [own[name] for own, name in self._places]
        values: dict[int, Any] = {}
        if present != self._usual:
            values = {i: value for i, value in enumerate(present) if value is not self._usual[i]}
        hooks: dict[int, dict[int, Any]] = {}
        if had_changes or RemovableHandle.next_id != self._handles:
            self._keep_lasting_hooks()
            hooks = {i: dict(own) for i, own in enumerate(self._hooks) if own != self._usual_hooks[i]}
        if not values and not hooks:
            return None
        self.install({i: self._usual[i] for i in values}, {i: self._usual_hooks[i] for i in hooks})
        return Changes(self, values, hooks)

    def _keep_lasting_hooks(self) -> None:
        """Those that transformers hangs on a model once, to collect its outputs, when a part of it is first called."""
        for own, usual in zip(self._hooks, self._usual_hooks, strict=True):
            if len(own) > len(usual):
                usual.update({id: hook for id, hook in own.items() if hook.__module__.startswith("transformers.")})
        self._handles = RemovableHandle.next_id

    def keep(self) -> None:
        """Let what differs after a model has run be the usual. Models settle in their first runs."""
        self._runs += 1
        if self._runs <= SETTLING_RUNS:
            self._usual = [own[name] for own, name in self._places]
        if RemovableHandle.next_id != self._handles:
            self._handles, self._usual_hooks = RemovableHandle.next_id, [dict(hooks) for hooks in self._hooks]

    def install(self, values: dict[int, Any], hooks: dict[int, dict[int, Any]]) -> None:
        """Put values and hooks, known by their places, into the models."""
        for i, value in values.items():
            own, name = self._places[i]
            own[name] = value
        for i, own_hooks in hooks.items():
            self._hooks[i].clear()
            self._hooks[i].update(own_hooks)


@dataclass(frozen=True)
class Changes:
    """The changes that one request has made to the models."""

    state: ModelState
    values: dict[int, Any]
    hooks: dict[int, dict[int, Any]]

    @property
    def signature(self) -> Hashable | None:
        """Equal for changes of equal effect; None where that cannot be known."""
        if self.hooks or any(getattr(value, "__dict__", None) for value in self.values.values()):
            return None
        return tuple((i, value if isinstance(value, bool | float) else type(value)) for i, value in self.values.items())

    def install(self) -> None:
        """Make them again."""
        self.state.install(self.values, self.hooks)


class RequestContext:
    """One request's own state; `active` puts it in place of the caller's, and back.

    random_state: of the global random generator as the request sees it
    needs_every_bit: whether what the request does with answers lets it bear no rounding
    """

    def __init__(
        self, request_id: str, models: ModelState, seed: int | None = None, needs_every_bit: bool = False
    ) -> None:
        self.request_id = request_id
        self.needs_every_bit = needs_every_bit
        self._models = models
        self._changes: Changes | None = None
        self._grad = False
        self._autocast = _autocast()
        self.random_state = (
            default_generator.get_state() if seed is None else torch.Generator().manual_seed(seed).get_state()
        )

    @property
    def may_share(self) -> bool:
        """Whether its calls may run together with those of a request of the same `signature`."""
        return (
            not self.needs_every_bit
            and not self._grad
            and (self._changes is None or self._changes.signature is not None)
        )

    @property
    def signature(self) -> Hashable:
        """What the answer of a call depends on beside its arguments."""
        return self._autocast, self._changes and self._changes.signature

    def active(self, runs_model: bool = False) -> "Active":
        """Run a part of the request's own code in a `with` block of this, or one of its calls (`runs_model`)."""
        return Active(self, runs_model)

    def enter(self) -> Outer:
        """Put the request's state in place of the caller's, which is returned."""
        outer = torch.is_grad_enabled(), default_generator.get_state(), _autocast()
        _put(self._grad, self.random_state, self._autocast)
        if self._changes is not None:
            self._changes.install()
        return outer

    def leave(self, outer: Outer, runs_model: bool) -> None:
        """Keep the state as it is now for the request, and put the caller's back."""
        self._grad, self.random_state = torch.is_grad_enabled(), default_generator.get_state()
        self._autocast = _autocast()
        if runs_model and self._changes is None:
            self._models.keep()
        else:
            self._changes = self._models.take_changes(self._changes is not None)
        _put(*outer)


class Active:
    """A block of code that runs in a request's context. (A class, since a generator would cost twice as much.)"""

    __slots__ = ("_context", "_outer", "_runs_model")

    def __init__(self, context: RequestContext, runs_model: bool) -> None:
        self._context = context
        self._runs_model = runs_model

    def __enter__(self) -> None:
        self._outer = self._context.enter()

    def __exit__(self, *_: object) -> None:
        self._context.leave(self._outer, self._runs_model)


def _put(grad: bool, random: torch.Tensor, autocast: Autocast) -> None:
    torch._C._set_grad_enabled(grad)
    default_generator.set_state(random)
    if autocast != _autocast():
        for device, dtype in zip(DEVICES, autocast, strict=True):
            torch.set_autocast_enabled(device, dtype is not None)
            if dtype is not None:
                torch.set_autocast_dtype(device, dtype)


def _autocast() -> Autocast:
    """The precision that is chosen automatically, by device; None where none is."""
    return tuple(
        [torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None for device in DEVICES]
    )
