"""The arguments of a pipeline's call that have no field of their own in a request: found in its signature.

A request gives them by name in `extra_args`. Excluded are arguments whose values no request can carry (tensors,
functions, dictionaries), and those that make several results of one request or name files of the server.
"""

import inspect
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from omni_worker.model_card import BOOLEAN, IMAGE, INTEGER, LIST, NUMBER, SCALARS, TEXT, CallArgument, Default
from omni_worker.requests import GenerationParams

KINDS: Mapping[Any, str] = {bool: BOOLEAN, int: INTEGER, float: NUMBER, str: TEXT, Image.Image: IMAGE}
SEQUENCES = (list, tuple, Sequence)
INTERNAL = ("self", "generator", "output_type", "return_dict", "latents", "batch_size")
INTERNAL_WORDS = ("callback", "path", "url", "file", "folder", "directory", "fonts")
"""Of functions, and of names of files: no request names files of the server."""
INTERNAL_ENDINGS = ("_per_prompt", "_kwargs", "latents", "_embeds")
MAX_DEFAULT_LENGTH = 200
"""Of a default value in the card, as text; a longer one is left out."""


class ExtraArguments:
    """The extra arguments of one pipeline, by name. `taken`: the parameters that fields of a request set."""

    def __init__(self, call: Callable[..., Any], parameters: Mapping[str, inspect.Parameter], taken: Collection[str]):
        annotations = _annotations(call)
        self.arguments: dict[str, CallArgument] = {}
        self._tuples: set[str] = set()
        for name, parameter in parameters.items():
            annotation = annotations.get(name, parameter.annotation)
            kinds = _kinds(annotation, parameter.default)
            if name in taken or _is_internal(name, parameter) or not kinds:
                continue
            self.arguments[name] = CallArgument(
                name=name,
                kinds=tuple(sorted(kinds)),
                default=_shown_default(parameter.default),
                required=parameter.default is inspect.Parameter.empty,
            )
            if isinstance(parameter.default, tuple) or _takes_tuple(annotation):
                self._tuples.add(name)

    def build(self, params: GenerationParams) -> dict[str, Any]:
        """The keyword arguments of a request that `ModelCard.check_arguments` accepted."""
        kwargs: dict[str, Any] = {}
        for name, value in params.extra_args.items():
            kwargs[name] = tuple(value) if name in self._tuples and isinstance(value, list) else value
        for name, arrays in params.extra_images.items():
            images = [Image.fromarray(np.asarray(array)) for array in arrays]
            kwargs[name] = images if len(images) > 1 else images[0]
        return kwargs


def _annotations(call: Callable[..., Any]) -> Mapping[str, Any]:
    """The resolved annotations of a function; empty if a name in them cannot be resolved."""
    try:
        return typing.get_type_hints(inspect.unwrap(call))
    except Exception:  # a name that is imported for type checkers only, or any other error of the expression
        return {}


def _is_internal(name: str, parameter: inspect.Parameter) -> bool:
    is_variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    is_named_so = name in INTERNAL or name.startswith("_") or name.endswith(INTERNAL_ENDINGS)
    return is_variadic or is_named_so or any(word in name for word in INTERNAL_WORDS)


def _kinds(annotation: Any, default: Any) -> frozenset[str]:
    """The kinds of JSON values for a parameter; empty if no request can carry its values."""
    if annotation is inspect.Parameter.empty or isinstance(annotation, str):
        kind = LIST if isinstance(default, list | tuple) else KINDS.get(type(default))
        return frozenset((kind,)) if kind else frozenset((*SCALARS, LIST)) if default is None else frozenset()
    kinds = _annotated_kinds(annotation)
    if IMAGE in kinds:
        return frozenset((IMAGE,))  # a text would be the address of an image, and nothing is fetched
    if TEXT in kinds and LIST in kinds and not kinds & {INTEGER, NUMBER}:
        kinds -= {LIST}  # texts of several requests
    return kinds


def _annotated_kinds(annotation: Any) -> frozenset[str]:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return frozenset[str]().union(*map(_annotated_kinds, inner))
    if origin is typing.Literal:
        return frozenset(KINDS[type(value)] for value in inner if type(value) in KINDS)
    if origin is typing.Annotated:
        return _annotated_kinds(inner[0])
    if annotation in SEQUENCES or origin in (*SEQUENCES, Sequence):
        items = frozenset[str]().union(*(_annotated_kinds(item) for item in inner if item is not Ellipsis))
        if IMAGE in items:
            return frozenset((IMAGE,))
        return frozenset((LIST,)) if items & {*SCALARS} or not inner else frozenset()
    return frozenset((KINDS[annotation],)) if annotation in KINDS else frozenset()


def _takes_tuple(annotation: Any) -> bool:
    """Whether a sequence must be a tuple."""
    choices = typing.get_args(annotation) if typing.get_origin(annotation) in (typing.Union, types.UnionType) else ()
    origins = {typing.get_origin(choice) or choice for choice in (*choices, annotation)}
    return tuple in origins and list not in origins


def _shown_default(default: Any) -> Default:
    """A default value as the card shows it; None if there is none, or none that can be shown."""
    if isinstance(default, list | tuple):
        default = tuple(default) if all(isinstance(item, bool | int | float | str) for item in default) else None
    is_shown = isinstance(default, bool | int | float | str | tuple) and len(str(default)) <= MAX_DEFAULT_LENGTH
    return default if is_shown else None
