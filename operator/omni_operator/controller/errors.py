"""Expected failures: the ways in which a pass does not finish, and an operator that is stuck."""

from omni_operator.crd.objects import Object


class Incomplete(Exception):
    """Something is left to do that needs another pass; the message says what."""


class PipelineChanged(Exception):
    """The pipeline is no longer the one that the pass read. `current`: the pipeline now, None if it was deleted."""

    def __init__(self, current: Object | None) -> None:
        super().__init__("the pipeline has changed")
        self.current = current


class NameConflict(Exception):
    """An object that does not belong to the pipeline has the name of one of its children."""


class Unhealthy(Exception):
    """The operator is stuck and must be restarted; the message says where."""
