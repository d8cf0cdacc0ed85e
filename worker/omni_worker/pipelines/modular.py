"""Gives diffusers' modular pipelines the form of the others: a call with a signature, which returns images or sound.

A modular pipeline is a tree of blocks. Its call takes any keyword and ignores those that no block knows, it returns all
that the blocks have written, and the strength of the guidance is not among its arguments but belongs to a component,
the guider. `as_pipeline` makes a pipeline whose call states its arguments, also the scales of its guiders, and returns
its results under the names of the classic pipelines. The blocks themselves run unchanged.
"""

import copy
import inspect
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from diffusers import DiffusionPipeline, ModularPipeline, ModularPipelineBlocks
from diffusers.guiders import BaseGuidance
from diffusers.utils import BaseOutput

RESULTS = {"images": "images", "videos": "frames", "audios": "audios", "audio": "audio", "sound": "audio"}
"""What the blocks call their results, and what the classic pipelines call them."""
GUIDER, SCALE = "guider", "guidance_scale"
UNSTATED = inspect.Parameter.empty


class ModularCall:
    """What the classes of `as_pipeline` have beside those of diffusers.

    results: the names of what the blocks compute, of those in RESULTS
    """

    results: ClassVar[tuple[str, ...]]
    _blocks: ModularPipelineBlocks

    enable_group_offload = DiffusionPipeline.enable_group_offload  # modular pipelines have none

    def set_progress_bar_config(self, **kwargs: Any) -> None:
        """Set it for the blocks on every level; diffusers sets it for those at the top."""
        for block in _all_blocks(self._blocks):
            if hasattr(block, "set_progress_bar_config"):
                block.set_progress_bar_config(**kwargs)


def as_pipeline(pipe: ModularPipeline) -> Any:
    """A pipeline of the same components and blocks, with the call of a classic one. `pipe` stays as it is."""
    made = object.__new__(_class_for(type(pipe), pipe.blocks, _guiders_by_argument(pipe)))
    vars(made).update(vars(pipe))
    return made


def input_parameters(blocks: ModularPipelineBlocks) -> list[inspect.Parameter]:
    """The inputs of a pipeline's blocks. One has no default if a block needs it that no other block can make."""
    made = {output.name for output in blocks.intermediate_outputs}
    parameters = []
    for one in blocks.inputs:
        if one.name is None:  # stands for all inputs of a kind
            continue
        is_needed = one.required and one.default is None and one.name not in made
        parameters.append(
            inspect.Parameter(
                one.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=UNSTATED if is_needed else one.default,
                annotation=UNSTATED if one.type_hint is None else one.type_hint,
            )
        )
    return parameters


def _class_for(kind: Any, blocks: ModularPipelineBlocks, guiders: Mapping[str, tuple[str, float]]) -> Any:
    """A subclass of a modular pipeline's class, whose call takes what these blocks take.

    guiders: the component and its own scale, by the argument that sets the scale
    """
    parameters = input_parameters(blocks)
    taken = {parameter.name for parameter in parameters}
    guiders = {argument: guider for argument, guider in guiders.items() if argument not in taken}
    parameters += [
        inspect.Parameter(argument, inspect.Parameter.KEYWORD_ONLY, default=scale, annotation=float)
        for argument, (_, scale) in guiders.items()
    ]
    names = {parameter.name for parameter in parameters}
    results = tuple(output.name for output in blocks.outputs if output.name in RESULTS)

    def call(self: Any, **kwargs: Any) -> BaseOutput:
        """Run the blocks. Raises TypeError for an argument that none of them takes."""
        if unknown := sorted(kwargs.keys() - names):
            raise TypeError(f"{kind.__name__} takes no argument {unknown[0]!r}")
        own = copy.copy(self)
        vars(own)["_blocks"] = self.blocks  # a copy, because some blocks keep what they make of the components
        for argument, (component, _) in guiders.items():
            if (scale := kwargs.pop(argument, None)) is not None:
                vars(own)[component] = vars(self)[component].new(guidance_scale=scale)
        state = kind.__call__(own, **kwargs)
        found = {RESULTS[name]: state.get(name) for name in results}
        return _output({name: value for name, value in found.items() if value is not None})

    receiver = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    call.__signature__ = inspect.Signature([receiver, *parameters])  # type: ignore[attr-defined]
    same = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(kind.__name__, (ModularCall, kind), {**same, "__call__": call, "results": results})


def _guiders_by_argument(pipe: ModularPipeline) -> dict[str, tuple[str, float]]:
    """The guiders with a scale and the scale of each, by the argument for it: `guider_2` has `guidance_scale_2`."""
    return {
        name.replace(GUIDER, SCALE): (name, part.guidance_scale)
        for name, part in pipe.components.items()
        if isinstance(part, BaseGuidance) and hasattr(part, SCALE) and GUIDER in name
    }


def _all_blocks(block: ModularPipelineBlocks) -> Iterator[ModularPipelineBlocks]:
    yield block
    for inner in block.sub_blocks.values():
        yield from _all_blocks(inner)


def _output(values: Mapping[str, Any]) -> BaseOutput:
    """The results as diffusers' own outputs are: by name, or as attributes."""
    output = BaseOutput()
    for name, value in values.items():
        output[name] = value
    return output
