"""The base class of the types of spec and status, and a check of lists. Pure."""

from typing import TypeVar

from omni_settings.record import Record as Record

Named = TypeVar("Named", bound=Record)


def with_unique_names(items: tuple[Named, ...]) -> tuple[Named, ...]:
    """The items of a list, which have names. Raises ValueError if two have the same one."""
    names: list[str] = [item.name for item in items]  # type: ignore[attr-defined]
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(duplicates)} occurs more than once; give each a name of its own")
    return items
