"""Request mode: a diffusers pipeline that runs each request in one go."""

from collections.abc import Mapping
from typing import Any

from omni_worker.model_card import ServingDefaults
from omni_worker.pipelines.arguments.call_arguments import CallArguments
from omni_worker.pipelines.arguments.results import result_of
from omni_worker.requests import GenerationParams


class WholePipeline:
    """Runs any diffusers pipeline, whatever it is made of."""

    def __init__(self, pipe: Any, defaults: ServingDefaults | None = None) -> None:
        pipe.set_progress_bar_config(disable=True)
        self._pipe = pipe
        self._arguments = CallArguments(pipe, defaults or ServingDefaults())
        self.card = self._arguments.card(pipe, mode="request")

    def generate(self, params: GenerationParams | Mapping[str, Any]) -> Any:
        """The result. Raises ValueError for a request that the pipeline does not take."""
        if isinstance(params, Mapping):
            return self._pipe(**params)
        return result_of(self._pipe(**self._arguments.build(params)))
