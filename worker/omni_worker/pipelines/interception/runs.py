"""What the step pipeline remembers about one request: its greenlet, its pending model call, and what spares calls."""

from dataclasses import dataclass
from typing import Any

from greenlet import greenlet

from omni_worker.pipelines.batching.calls import Call
from omni_worker.pipelines.batching.keys import BatchKey
from omni_worker.pipelines.interception.feature_caches import FeatureCaches
from omni_worker.pipelines.interception.previews import Previews
from omni_worker.pipelines.interception.prompt_cache import PromptKey
from omni_worker.pipelines.interception.skipping import Skipping
from omni_worker.pipelines.interception.speculation import Speculation
from omni_worker.pipelines.request_context import RequestContext


@dataclass(frozen=True)
class Pending:
    """A model call that waits for its result.

    key: of the call alone, as the key table gives it
    index_in_step: which call of its model in this step it is, from 0
    speculated: the calls that will probably follow in the same step; they run together with this one
    answer: its result as the only item, if it need not be computed
    prompt_key: under which its result can be kept; None if it cannot
    """

    call: Call
    key: BatchKey
    index_in_step: int
    speculated: list[Call]
    answer: tuple[Any, ...] = ()
    prompt_key: PromptKey | None = None

    @property
    def batch_key(self) -> BatchKey:
        """The key for the scheduler: calls share a batch only if they also agree in their index and in how many calls
        they add to the batch."""
        return self.key._replace(index_in_step=self.index_in_step, calls_at_once=1 + len(self.speculated))


@dataclass
class Run:
    """One request's run of the pipeline, from `prepare_encode` to `close`.

    greenlet: runs the pipeline's own call
    context: the process state that belongs to the request
    feature_caches: None if the request has none inside its models
    skipping: None if all calls of the request are computed
    previews: None if the request wants none
    pending: the call that runs next: the request's own, or one of its preview; None while the pipeline's own code runs
    held: the request's own call, while a call of its preview is pending
    output: what the pipeline's call returned
    """

    greenlet: greenlet
    context: RequestContext
    speculation: Speculation
    skipping: Skipping | None
    previews: Previews | None
    feature_caches: FeatureCaches | None = None
    pending: Pending | None = None
    held: Pending | None = None
    output: Any = None
