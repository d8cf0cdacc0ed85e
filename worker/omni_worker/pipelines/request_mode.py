"""Request mode: runs each request with one call of the diffusers pipeline, alone and without interruption."""

from collections.abc import Mapping
from typing import Any

from omni_worker.model_card import ServingDefaults
from omni_worker.pipelines.arguments.call_arguments import CallArguments
from omni_worker.pipelines.arguments.results import unfinished_result
from omni_worker.requests import GenerationParams


class RequestModePipeline:
    """Runs any diffusers pipeline in request mode, also one that cannot be intercepted."""

    def __init__(self, pipe: Any, defaults: ServingDefaults | None = None) -> None:
        pipe.set_progress_bar_config(disable=True)
        self._pipe = pipe
        self._arguments = CallArguments(pipe, defaults or ServingDefaults())
        self.card = self._arguments.card(pipe, mode="request")

    def generate(self, params: GenerationParams | Mapping[str, Any]) -> Any:
        """The result of a request, unfinished. Raises ValueError if the pipeline rejects it.

        `params` can be the keyword arguments of the pipeline's own call; the result is then what that call returns.
        """
        if isinstance(params, Mapping):
            return self._pipe(**params)
        return unfinished_result(self._pipe(**self._arguments.build(params)))
