"""Has torch compile the denoisers, keeps the number of graphs small, and counts what torch compiles.

Requests wait while a graph is compiled, so no prompt's length may need one of its own: lengths are symbols in graphs.
"""

import functools
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch._dynamo
from torch import Tensor
from torch._dynamo.callback import CallbackArgs, callback_handler

from omni_worker.pipelines.batching.calls import MAIN_ARGUMENTS
from omni_worker.pipelines.batching.structure import flat_values
from omni_worker.pipelines.components import denoisers, models

MAX_GRAPHS = 64
"""For each compiled function. Regional compilation needs a few: with and without a mask, one row and several."""
LIMITS = ("recompile_limit", "accumulated_recompile_limit")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CompiledDenoisers:
    """The names of the models that torch compiles.

    regional: those of which it compiles the repeated blocks, each kind once, for all sizes, lengths and batch sizes
    whole: those without such blocks: they are compiled for each image size and batch size, so use few batch sizes (the
        buckets of `ProvenBatches`); one graph serves all prompt lengths
    """

    regional: tuple[str, ...]
    whole: tuple[str, ...]


def compile_denoisers(pipe: Any, backend: str = "inductor") -> CompiledDenoisers:
    """Let torch compile the models that run in each step, at their first call.

    torch stops compiling a function after `recompile_limit` graphs, and then runs new shapes as it is; the limit is
    raised to MAX_GRAPHS here, and `compilations` reports the functions that reach it.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MAX_GRAPHS)
    regional, whole = [], []
    for name, model in models(pipe).items():
        if name not in denoisers(pipe):
            continue
        compilations.watch(name)
        kinds = {type(module).__name__ for module in model.modules()}
        if kinds & {*(getattr(model, "_repeated_blocks", None) or ())}:
            model.compile_repeated_blocks(backend=backend, dynamic=True)
            regional.append(name)
        else:
            compiled = torch.compile(model.forward, backend=backend, dynamic=False)
            vars(model)["forward"] = _with_any_length(compiled)
            whole.append(name)
    return CompiledDenoisers(tuple(regional), tuple(whole))


def _with_any_length(compiled: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, whose graphs serve all lengths of the sequences next to its main argument."""

    @functools.wraps(compiled)
    def forward(*args: Any, **kwargs: Any) -> Any:
        for tensor in _sequences(args, kwargs):
            torch._dynamo.maybe_mark_dynamic(tensor, 1)
        return compiled(*args, **kwargs)

    return forward


def _sequences(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterable[Tensor]:
    """The arguments of shape (rows, length, width), as embeddings of prompts, and (rows, length), as masks."""
    named = {name: value for name, value in kwargs.items() if name not in MAIN_ARGUMENTS}
    others = args[1:] if len(named) == len(kwargs) else args
    for name, value in [*((None, value) for value in others), *named.items()]:
        for tensor in flat_values(value):
            if isinstance(tensor, Tensor):
                is_mask = not tensor.is_floating_point() or "mask" in (name or "")
                if tensor.dim() == 3 or (tensor.dim() == 2 and is_mask):
                    yield tensor


class Compilations:
    """Counts the graphs that torch compiles in this process, and reports functions of which it compiles no more.

    graphs: all of them, also those that come from the compile cache
    seconds: how long requests, or the warm-up, waited for them
    models: the names of those that it compiles
    full: the functions that have reached their limit of graphs, as torch describes them
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.models: set[str] = set()
        self.full: set[str] = set()
        self.on_end: list[Callable[[], None]] = []
        self._began = 0.0
        self._graphs_before = 0
        self._graphs_at_serving: int | None = None
        self._seconds_at_serving = 0.0

    def watch(self, model: str) -> None:
        """Count what torch compiles from now on. `model`: the name of one that it compiles."""
        self.models.add(model)
        if self._start not in callback_handler.start_callbacks:
            callback_handler.register_start_callback(self._start)
            callback_handler.register_end_callback(self._end)
        logging.getLogger("torch._dynamo.convert_frame").addFilter(self._note_limit)

    @property
    def graphs(self) -> int:
        return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])

    def end_warm_up(self) -> None:
        """From now on, requests wait for compilations."""
        self._graphs_at_serving, self._seconds_at_serving = self.graphs, self.seconds

    def stats(self) -> dict[str, float]:
        """For metrics."""
        is_serving = self._graphs_at_serving is not None
        return {
            "compiled_graphs": self.graphs,
            "late_graphs": self.graphs - (self._graphs_at_serving or 0) if is_serving else 0,
            "late_compile_seconds": round(self.seconds - self._seconds_at_serving, 3) if is_serving else 0,
            "compile_limits_reached": len(self.full),
        }

    def _start(self, _: CallbackArgs) -> None:
        self._began = time.monotonic()
        self._graphs_before = self.graphs

    def _end(self, _: CallbackArgs) -> None:
        seconds = time.monotonic() - self._began
        self.seconds += seconds
        if self.graphs == self._graphs_before:
            return
        if self._graphs_at_serving is not None:
            log.warning(
                "torch compiled a graph, and all requests waited for %.1f s; to compile it before the replica accepts"
                " requests, list their sizes and batch sizes in load.warmUp",
                seconds,
            )
        for notify in self.on_end:
            notify()

    def _note_limit(self, record: logging.LogRecord) -> bool:
        """Replace torch's warning that it compiles no more graphs of a function by one that says what to do."""
        args = record.args
        if not isinstance(args, tuple) or len(args) < 4 or args[0] not in LIMITS:
            return True
        _, limit, function, reason, *_ = args
        if str(function) not in self.full:
            self.full.add(str(function))
            log.warning(
                "a function of %s, %s, has reached its limit of %s compiled graphs, and runs new shapes uncompiled,"
                " which is slower; the last one needed a graph because %s. Let requests use fewer sizes, those of"
                " load.warmUp.sizes, or remove load.compile (--compile)",
                ", ".join(sorted(self.models)),
                function,
                limit,
                str(reason).strip() or "it was new",
            )
        return False


compilations = Compilations()
"""Of this process, as torch's own counters are."""
