"""Drives a language model through the real engine and scheduler, in the test's own thread."""

from omni_worker.engine.engine import Engine
from omni_worker.engine.executor import UniProcExecutor
from omni_worker.engine.runner.autoregressive import AutoregressiveRunner
from omni_worker.engine.scheduler import POLICIES, Finished, RequestProgress, SchedulerRequest, StepScheduler
from omni_worker.requests import GenerationParams, SamplingParams


def params(prompt="", written=(), stream=False, hidden_states=False, seed=0, **sampling):
    return GenerationParams(
        prompt=prompt,
        seed=seed,
        stream=stream,
        hidden_states=hidden_states,
        written=tuple(written),
        sampling=SamplingParams(**sampling),
    )


class LanguageEngine:
    """An engine around a model. `ended` and `partials` hold what came of each request, by id."""

    def __init__(self, model, max_num_seqs=8, policy="fifo", encode_only=False):
        self.runner = AutoregressiveRunner(model, encode_only)
        scheduler = StepScheduler(max_num_seqs, POLICIES[policy]())
        self.engine = Engine(scheduler, UniProcExecutor(self.runner), self._take)
        self.ended, self.partials, self.order = {}, {}, []

    def _take(self, event):
        if isinstance(event, Finished):
            self.ended[event.id] = event
            self.order.append(event.id)
        elif isinstance(event, RequestProgress) and event.partial is not None:
            self.partials.setdefault(event.id, []).append(event.partial)

    def add(self, id, params, **more):
        self.engine.add(SchedulerRequest(id, params, **more))

    def step(self, times=1):
        for _ in range(times):
            self.engine.step()

    def finish(self):
        while self.engine.load.running or self.engine.load.waiting:
            self.engine.step()
        self.engine.step()  # tells the runner about the last request that ended
        assert self.runner.stats()["states"] == self.runner.stats()["slots"] == 0
        return self.ended

    def result(self, id):
        ended = self.ended[id]
        if ended.error is not None:
            raise ended.error
        return ended.result


def answer(model, params):
    """One request, alone; its result."""
    writer = LanguageEngine(model)
    writer.add("only", params)
    writer.finish()
    return writer.result("only")
