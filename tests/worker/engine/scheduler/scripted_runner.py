"""A runner without a model for the tests of the schedulers: every request says which calls it makes, and what fails."""

from dataclasses import dataclass, field

from omni_worker.engine.scheduler import RequestOutput, RunnerOutput, SchedulerOutput

ENCODE, DECODE = "encode", "decode"


@dataclass(frozen=True)
class Script:
    """What a request does: `steps` steps, each a call of every one of `keys`; an encoding before, a decoding after.

    fails_at: the call that fails, counted from 0; -1 is the preparation, None is never
    """

    steps: int = 3
    keys: tuple[str, ...] = ("K",)
    encodes: bool = False
    decodes: bool = False
    fails_at: int | None = None

    @property
    def calls(self) -> list[str]:
        """The keys of its calls in order."""
        return [ENCODE] * self.encodes + list(self.keys) * self.steps + [DECODE] * self.decodes

    def steps_done(self, calls: int) -> int:
        """Steps after so many calls."""
        return max(0, min(self.steps, (calls - self.encodes) // len(self.keys)))


@dataclass
class ScriptedRunner:
    """Runs payloads that are scripts: call by call, or whole. Holds itself to what schedulers promise runners.

    seconds: (a, b) of t(B) = a + b·B by key; a batch of a key that is not there takes no time
    room: how many calls of a key fit into the memory of the device; a larger batch is run in parts
    """

    whole: bool = False
    seconds: dict[str, tuple[float, float]] = field(default_factory=dict)
    room: dict[str, int] = field(default_factory=dict)
    scripts: dict[str, Script] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    now: float = 0.0

    def execute(self, output: SchedulerOutput) -> RunnerOutput:
        """Run one output; the clock goes on by what it takes."""
        for id in output.finished:
            assert self.scripts.pop(id, None) is not None, f"{id} ended twice, or was never here"
            del self.done[id]
        answers = [self._prepare(request.id, request.payload) for request in output.new]
        keys = {self.next_key(id) for id in output.cached}
        assert len(keys) <= 1, "a batch has one key"
        for id in output.cached:
            self.done[id] += 1
            answers.append(self._outcome(id))
        taken, out_of_memory = None, False
        for key in keys:
            out_of_memory = len(output.cached) > self.room.get(key, len(output.cached))
            fixed, each = self.seconds.get(key, (0.0, 0.0))
            taken = fixed + each * len(output.cached)
            self.now += taken
        timed = None if out_of_memory or taken is None else (output.step_id, taken)
        return RunnerOutput(output.step_id, tuple(answers), timed, out_of_memory)

    def next_key(self, id: str) -> str:
        """The key of the request's next call."""
        return self.scripts[id].calls[self.done[id]]

    def _prepare(self, id: str, script: Script) -> RequestOutput:
        assert id not in self.scripts, f"{id} is prepared a second time"
        self.scripts[id], self.done[id] = script, 0
        if self.whole:
            calls = script.calls if script.fails_at is None else script.calls[: script.fails_at + 1]
            self.done[id] = len(calls)
            self.now += sum(sum(self.seconds.get(key, (0.0, 0.0))) for key in calls)
            return RequestOutput(id, result=script, error=_failure(script, len(calls)))
        return self._outcome(id)

    def _outcome(self, id: str) -> RequestOutput:
        script, done = self.scripts[id], self.done[id]
        step = script.steps_done(done)
        if (error := _failure(script, done)) is not None:
            return RequestOutput(id, step=step, error=error)
        if done == len(script.calls):
            return RequestOutput(id, step=step, total_steps=script.steps, result=script)
        key = self.next_key(id)
        return RequestOutput(id, key, key not in (ENCODE, DECODE), step, script.steps)


def _failure(script: Script, calls: int) -> Exception | None:
    return None if script.fails_at is None or calls <= script.fails_at else RuntimeError("poisoned")
