"""Continuous load through the official client, and what came of it."""

import contextlib
import itertools
import threading
import time
from dataclasses import dataclass

import numpy as np
import openai

from .. import serving
from ..serving import eventually

CASES = [{"seed": seed, "num_inference_steps": steps} for seed, steps in enumerate((4, 20, 8, 12, 6, 4))]
MOST_LEVELS = 2  # of 255, by which a picture may differ from the one of an undisturbed run


def pixels(image):
    return np.asarray(image).astype(int)


@dataclass
class Outcome:
    """One request: its picture, or what the client raised."""

    case: dict
    began: float
    ended: float
    picture: np.ndarray | None = None
    error: openai.OpenAIError | None = None


class Load:
    """Requests without pause from `threads` clients, while it is entered."""

    def __init__(self, pipeline, references, threads=3):
        self.outcomes = []
        self._pipeline, self._references = pipeline, references
        self._cases = itertools.cycle(CASES)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        self.more()
        return self

    def __exit__(self, *exc):
        self._stop.set()
        for thread in self._threads:
            thread.join(120)

    def more(self, count=6):
        """Wait until so many more have been answered."""
        before = len(self.outcomes)
        eventually(lambda: len(self.outcomes) >= before + count, f"{count} more answers")

    @property
    def failures(self):
        return [outcome for outcome in self.outcomes if outcome.error is not None]

    def check(self):
        """Nothing failed, and every picture is the one that an undisturbed run gives."""
        assert not self.failures, [f"{one.case}: {one.error!r}" for one in self.failures]
        self.check_pictures()

    def check_pictures(self):
        for one in self.outcomes:
            if one.picture is not None:
                levels = np.abs(one.picture - self._references[one.case["seed"]]).max()
                assert levels <= MOST_LEVELS, f"{one.case}: {levels} levels"

    def _run(self):
        while not self._stop.is_set():
            outcome = Outcome(next(self._cases), time.monotonic(), 0.0)
            try:
                outcome.picture = pixels(serving.draw(self._pipeline.head.port, **outcome.case)[0])
            except openai.OpenAIError as error:
                outcome.error = error
                self._stop.wait(0.2)
            outcome.ended = time.monotonic()
            self.outcomes.append(outcome)


class Long:
    """One request that takes seconds, in a thread; `step` says how far it has to be before anything happens to it."""

    def __init__(self, pipeline, steps=300, prompt="a red three on black background", timeout=120, **more):
        self.outcome = None
        self._known = {one["id"] for one in pipeline.running()}
        self._pipeline, self._steps = pipeline, steps
        self._case = {"prompt": prompt, "seed": 100, "num_inference_steps": steps, **more}
        self._timeout = timeout
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def replica(self):
        """The id of the replica where it runs, as soon as it is under way."""
        return eventually(self._replica, "the long request under way")

    def _replica(self):
        for one in self._pipeline.running():
            if one["total_steps"] == self._steps and one["step"] > 3:
                return one["replica"]
        return None

    def result(self):
        self._thread.join(120)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def _run(self):
        client = serving.client_of(self._pipeline.head.port).with_options(timeout=self._timeout)
        try:
            self.outcome = pixels(serving.draw_with(client, **self._case)[0])
        except openai.OpenAIError as error:
            self.outcome = error


def lost_runs(pipeline, reason):
    """How many runs the head has counted as lost for this reason."""
    with contextlib.suppress(StopIteration):
        name = f'omni_request_lost_runs_total{{reason="{reason}",'
        line = next(line for line in pipeline.head.get("/metrics").text.splitlines() if line.startswith(name))
        return int(float(line.rpartition(" ")[2]))
    return 0
