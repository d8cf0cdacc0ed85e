"""The submodules of a module's copy, which are copied when the pipeline reaches for them."""

import weakref
from collections.abc import Iterator
from typing import Any, Protocol

from torch.nn import Module


class Copier(Protocol):
    """Makes the copies of a model's modules."""

    def of(self, module: Module) -> Module: ...


class LazyModules(dict[str, Any]):
    """The submodules of a module's copy. Each is copied when it is first reached for.

    Only what the model had is copied; a module that the request puts in is its own already.
    """

    def __init__(self, owner: Copier, modules: dict[str, Any]) -> None:
        super().__init__(modules)
        self._owner = weakref.ref(owner)
        self._uncopied = {name for name, module in modules.items() if module is not None}

    def raw(self) -> dict[str, Any]:
        """The modules as they are: originals that are not copied yet, and copies."""
        return {name: dict.__getitem__(self, name) for name in dict.keys(self)}

    def __getitem__(self, name: str) -> Any:
        module = dict.__getitem__(self, name)
        if name in self._uncopied and (owner := self._owner()) is not None:
            module = owner.of(module)
            self[name] = module
        return module

    def __setitem__(self, name: str, module: Any) -> None:
        self._uncopied.discard(name)
        dict.__setitem__(self, name, module)

    def __iter__(self) -> Iterator[str]:  # without it, dict(self) would take the originals
        return dict.__iter__(self)

    def __reduce__(self) -> Any:
        return dict, (dict(self.items()),)

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if dict.__contains__(self, name) else default

    def values(self) -> Any:
        return [self[name] for name in self]

    def items(self) -> Any:
        return [(name, self[name]) for name in self]

    def pop(self, name: str, *default: Any) -> Any:
        if name not in self:
            return dict.pop(self, name, *default)
        module = self[name]
        del self[name]
        return module

    def update(self, *modules: Any, **by_name: Any) -> None:
        for name, module in dict(*modules, **by_name).items():
            self[name] = module

    def copy(self) -> Any:
        return dict(self.items())
