"""The process-wide state that belongs to one request while its pipeline runs. It is switched with the greenlets.

A pipeline's own code may enable gradients, draw from the global random generator, set attention processors, or register
hooks on layers. Its greenlet can be suspended in the middle of that, and other requests run on the same models. So each
request gets its own state back when its greenlet resumes, and the caller's state is restored when it stops.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import default_generator
from torch.utils.hooks import RemovableHandle

ATTRIBUTES = ("processor", "enabled", "mix_ratio")  # the attributes of layers that diffusers' pipelines set
HOOKS = ("_forward_hooks", "_forward_pre_hooks")
DEVICES = ("cpu", "cuda")
SETTLING_RUNS = 100  # model calls after which attributes that models set themselves are no longer looked for

Autocast = tuple[torch.dtype | None, ...]
ProcessState = tuple[bool, torch.Tensor, Autocast]


class ModelDefaults:
    """The attention processors, switches and hooks that the shared models have outside of any request.

    A model may change these itself in its first runs (transformers registers hooks this way). Such changes become the
    new defaults. Changes by a request's own code are taken out of the models when the request stops.
    """

    def __init__(self, models: Sequence[torch.nn.Module]) -> None:
        layers = {id(layer): layer for model in models for layer in model.modules()}.values()
        self._places = [(vars(layer), name) for layer in layers for name in vars(layer) if name in ATTRIBUTES]
        self._values = [attributes[name] for attributes, name in self._places]
        self._hooks = [vars(layer)[name] for layer in layers for name in HOOKS]
        self._default_hooks = [dict(hooks) for hooks in self._hooks]
        self._next_hook_id = RemovableHandle.next_id  # changes whenever a hook is registered anywhere
        self._runs = 0

    def take_changes(self, had_changes: bool) -> "ModelChanges | None":
        """Restore the defaults. Returns what a request's own code had changed, or None.

        This runs whenever a request stops. Nearly always nothing has changed, and then it must be fast.
        """
        present = [attributes[name] for attributes, name in self._places]
        values: dict[int, Any] = {}
        if present != self._values:
            values = {i: value for i, value in enumerate(present) if value is not self._values[i]}
        hooks: dict[int, dict[int, Any]] = {}
        if had_changes or RemovableHandle.next_id != self._next_hook_id:
            self._adopt_transformers_hooks()
            hooks = {i: dict(layer) for i, layer in enumerate(self._hooks) if layer != self._default_hooks[i]}
        if not values and not hooks:
            return None
        self.install({i: self._values[i] for i in values}, {i: self._default_hooks[i] for i in hooks})
        return ModelChanges(self, values, hooks)

    def adopt_current(self) -> None:
        """Make the present state the defaults, after a model has run. Models change themselves in their first runs."""
        self._runs += 1
        if self._runs <= SETTLING_RUNS:
            self._values = [attributes[name] for attributes, name in self._places]
        if RemovableHandle.next_id != self._next_hook_id:
            self._next_hook_id, self._default_hooks = RemovableHandle.next_id, [dict(hooks) for hooks in self._hooks]

    def install(self, values: dict[int, Any], hooks: dict[int, dict[int, Any]]) -> None:
        """Put values and hooks into the models. Both are indexed by their places."""
        for i, value in values.items():
            attributes, name = self._places[i]
            attributes[name] = value
        for i, layer_hooks in hooks.items():
            self._hooks[i].clear()
            self._hooks[i].update(layer_hooks)

    def _adopt_transformers_hooks(self) -> None:
        """Add to the defaults the hooks that transformers registers, once, to collect the outputs of a model."""
        for hooks, defaults in zip(self._hooks, self._default_hooks, strict=True):
            if len(hooks) > len(defaults):
                defaults.update({id: hook for id, hook in hooks.items() if hook.__module__.startswith("transformers.")})
        self._next_hook_id = RemovableHandle.next_id


@dataclass(frozen=True)
class ModelChanges:
    """What one request has changed in the shared models, by place."""

    defaults: ModelDefaults
    values: dict[int, Any]
    hooks: dict[int, dict[int, Any]]

    @property
    def signature(self) -> Hashable | None:
        """Equal for changes with equal effect. None if the effect cannot be compared."""
        if self.hooks or any(getattr(value, "__dict__", None) for value in self.values.values()):
            return None
        return tuple((i, value if isinstance(value, bool | float) else type(value)) for i, value in self.values.items())

    def install(self) -> None:
        """Put the changes into the models again."""
        self.defaults.install(self.values, self.hooks)


class RequestContext:
    """One request's own process state. Within a `with` block of `active`, it replaces the caller's.

    random_state: of the global random generator, as the request sees it
    needs_exact_bits: whether the request's results must not differ even by rounding
    """

    def __init__(
        self, request_id: str, models: ModelDefaults, seed: int | None = None, needs_exact_bits: bool = False
    ) -> None:
        self.request_id = request_id
        self.needs_exact_bits = needs_exact_bits
        self._models = models
        self._changes: ModelChanges | None = None
        self._grad = False
        self._autocast = _current_autocast()
        self.random_state = (
            default_generator.get_state() if seed is None else torch.Generator().manual_seed(seed).get_state()
        )

    @property
    def can_share_batch(self) -> bool:
        """Whether its calls can run together with those of a request with the same `signature`."""
        return (
            not self.needs_exact_bits
            and not self._grad
            and (self._changes is None or self._changes.signature is not None)
        )

    @property
    def signature(self) -> Hashable:
        """What the result of a call depends on besides its arguments."""
        return self._autocast, self._changes and self._changes.signature

    def active(self, runs_model: bool = False) -> "ActiveContext":
        """A context manager for a part of the request's own code, or for one of its model calls (`runs_model`)."""
        return ActiveContext(self, runs_model)

    def enter(self) -> ProcessState:
        """Replace the caller's state by the request's. Returns the caller's."""
        outer = torch.is_grad_enabled(), default_generator.get_state(), _current_autocast()
        _set_state(self._grad, self.random_state, self._autocast)
        if self._changes is not None:
            self._changes.install()
        return outer

    def leave(self, outer: ProcessState, runs_model: bool) -> None:
        """Keep the present state for the request, and restore the caller's."""
        self._grad, self.random_state = torch.is_grad_enabled(), default_generator.get_state()
        self._autocast = _current_autocast()
        if runs_model and self._changes is None:
            self._models.adopt_current()
        else:
            self._changes = self._models.take_changes(self._changes is not None)
        _set_state(*outer)


class ActiveContext:
    """A block of code that runs in a request's context. It is a class because a generator would cost twice as much."""

    __slots__ = ("_context", "_outer", "_runs_model")

    def __init__(self, context: RequestContext, runs_model: bool) -> None:
        self._context = context
        self._runs_model = runs_model

    def __enter__(self) -> None:
        self._outer = self._context.enter()

    def __exit__(self, *_: object) -> None:
        self._context.leave(self._outer, self._runs_model)


def _set_state(grad: bool, random: torch.Tensor, autocast: Autocast) -> None:
    torch._C._set_grad_enabled(grad)
    default_generator.set_state(random)
    if autocast != _current_autocast():
        for device, dtype in zip(DEVICES, autocast, strict=True):
            torch.set_autocast_enabled(device, dtype is not None)
            if dtype is not None:
                torch.set_autocast_dtype(device, dtype)


def _current_autocast() -> Autocast:
    """The dtype of automatic mixed precision for each device of `DEVICES`; None if it is off."""
    return tuple(
        [torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None for device in DEVICES]
    )
