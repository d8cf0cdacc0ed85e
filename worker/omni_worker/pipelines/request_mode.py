"""Request mode: runs each request with one call of the diffusers pipeline, alone and without interruption."""

import copy
from collections.abc import Mapping
from typing import Any

from omni_worker.model_card import ServingDefaults
from omni_worker.pipelines.adapter_store import AdapterStore
from omni_worker.pipelines.arguments.call_arguments import CallArguments
from omni_worker.pipelines.arguments.results import unfinished_result
from omni_worker.pipelines.interception.pipeline_copies import PipelineCopies
from omni_worker.pipelines.request_context import RequestContext
from omni_worker.requests import GenerationParams


class RequestModePipeline:
    """Runs any diffusers pipeline in request mode, also one that cannot be intercepted.

    Each request has its own copy of the pipeline. So a request that fails while its VAE is cast, for instance, leaves
    the models as they were loaded to the next one.
    """

    def __init__(self, pipe: Any, defaults: ServingDefaults | None = None) -> None:
        pipe.set_progress_bar_config(disable=True)
        self._copies = PipelineCopies(pipe)
        self.adapters = AdapterStore(pipe)
        self._arguments = CallArguments(pipe, defaults or ServingDefaults())
        self.card = self._arguments.card(pipe, mode="request")

    def generate(self, params: GenerationParams | Mapping[str, Any]) -> Any:
        """The result of a request, unfinished. Raises ValueError if the pipeline rejects it.

        `params` can be the keyword arguments of the pipeline's own call; the result is then what that call returns.
        """
        if isinstance(params, Mapping):
            return self._call(RequestContext(""), params)
        context = RequestContext("", params.seed, adapters=self.adapters.select(params.loras))
        output = self._call(context, self._arguments.build(params))
        return unfinished_result(output, sample_rate=self.card.sample_rate)

    def _call(self, context: RequestContext, kwargs: Mapping[str, Any]) -> Any:
        try:
            with context.active():
                if self._copies.runs_whole:
                    return self._copies.create_whole(copy.copy)(**kwargs)
                return self._copies.create(context, copy.copy)(**kwargs)
        finally:
            context.close()
