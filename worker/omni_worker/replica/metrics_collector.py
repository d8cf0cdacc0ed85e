"""Prometheus metrics of a process's local replicas, from what they reported to their supervisor."""

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from omni_worker.replica.supervisor import Child

COUNTERS = {
    "engine_steps": "Turns of the engine's loop that ran something",
    "engine_step_seconds": "Time in those turns",
    "completed": "Requests completed",
    "batched_calls": "Model calls that shared a forward pass",
    "single_calls": "Model calls that ran alone",
    "audits": "Calls of batches that also ran alone, to compare the results",
    "verdicts_revoked": "Kinds of call that run alone since an audit found another result",
    "calls_foreseen": "Model calls whose answers were there when the pipeline made them",
    "calls_mistaken": "Model calls that were foreseen and did not come so",
    "calls_skipped": "Model calls answered from the request's earlier ones instead of being computed",
    "component_moves": "Components of the model moved to the device, with load.offload: model",
    "compiled_graphs": "Graphs that torch compiled",
    "late_graphs": "Graphs that torch compiled after the warm-up, while requests waited",
    "late_compile_seconds": "Time that requests waited for graphs after the warm-up",
    "prompt_hits": "Calls of text encoders whose results had been kept",
    "prompt_misses": "Calls of text encoders whose results had not been kept",
    "refused": "Requests turned away, for the queue was full",
}
GAUGES = {
    "waiting": "Requests waiting in the scheduler",
    "predicted_wait_seconds": "Time that a request which came now would wait until it begins, as predicted",
    "running": "Requests running in the scheduler",
    "states": "Request states held by the runner",
    "prompt_cache_bytes": "Results of text encoders kept, in bytes",
    "compile_limits_reached": "Compiled functions that have reached their limit of graphs: new shapes run uncompiled",
    "text_buckets": "Lengths to which prompts were padded in batches of a compiled model",
    "keys_batched": "Kinds of call proven to batch",
    "keys_alone": "Kinds of call found to run right only alone",
}
FIT = {
    "limit": "Calls that go into one batch: as many as pay, or as fit",
    "fixed_seconds": "What a batch takes however many calls are in it: a in t(B) = a + b B, fitted to its batches",
    "call_seconds": "What every call of a batch adds to that: b in t(B) = a + b B",
}


class ChildCollector(Collector):
    """Collects the last statistics of every local replica when Prometheus scrapes."""

    def __init__(self, children: Sequence[Child]) -> None:
        self._children = children

    def collect(self) -> Iterator[Metric]:
        for name, text in COUNTERS.items():
            counter = CounterMetricFamily(f"omni_engine_{name.removeprefix('engine_')}", text, labels=["index"])
            for child in self._children:
                counter.add_metric([str(child.index)], child.stats.numbers.get(name, 0))
            yield counter
        for name, text in GAUGES.items():
            gauge = GaugeMetricFamily(f"omni_engine_{name}", text, labels=["index"])
            for child in self._children:
                if name in child.stats.numbers:
                    gauge.add_metric([str(child.index)], child.stats.numbers[name])
            yield gauge
        yield from self._batches()
        restarts = CounterMetricFamily("omni_replica_restarts", "Times the replica was started again", labels=["index"])
        for child in self._children:
            restarts.add_metric([str(child.index)], child.restarts)
        yield restarts

    def _batches(self) -> Iterator[Metric]:
        sizes = SummaryMetricFamily(
            "omni_engine_batch_size",
            "Calls that went into one batch: count of batches, and sum of their calls",
            labels=["index", "phase", "model"],
        )
        fits = [
            GaugeMetricFamily(f"omni_engine_batch_{name}", text, labels=["index", "phase", "model", "variant"])
            for name, text in FIT.items()
        ]
        times = SummaryMetricFamily(
            "omni_engine_batch_seconds",
            "Time that batches took: count of batches, and sum of their times where no proof was part of them",
            labels=["index", "phase", "model"],
        )
        for child in self._children:
            index = str(child.index)
            for phase, model, batches, calls, seconds in child.stats.batch_counts:
                sizes.add_metric([index, phase, model], batches, calls)
                times.add_metric([index, phase, model], batches, seconds)
            for phase, model, variant, *values in child.stats.batch_sizes:
                for gauge, value in zip(fits, values, strict=True):
                    if value is not None:
                        gauge.add_metric([index, phase, model, variant], value)
        yield from (sizes, times, *fits)
