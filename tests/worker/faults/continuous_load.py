"""Continuous load through the official client, and its results."""

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
PATIENCE = 600  # seconds, for one request on a busy machine
MAX_LEVELS = 2  # of 255, by which a picture may differ from the one of an undisturbed run


def pixels(image):
    return np.asarray(image).astype(int)


@dataclass
class Outcome:
    """One request: its image, or the client's exception."""

    case: dict
    began: float
    ended: float
    picture: np.ndarray | None = None
    error: openai.OpenAIError | None = None


class Load:
    """Sends requests without pause from `threads` clients, as long as the context lasts."""

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
            thread.join(PATIENCE)

    def more(self, count=6):
        """Wait until `count` more requests have been answered."""
        before = len(self.outcomes)
        eventually(lambda: len(self.outcomes) >= before + count, f"{count} more answers")

    @property
    def failures(self):
        return [outcome for outcome in self.outcomes if outcome.error is not None]

    def check(self):
        """Check that no request failed, and that every image is that of an undisturbed run."""
        assert not self.failures, [f"{one.case}: {one.error!r}" for one in self.failures]
        self.check_pictures()

    def check_pictures(self):
        for one in self.outcomes:
            if one.picture is not None:
                levels = np.abs(one.picture - self._references[one.case["seed"]]).max()
                assert levels <= MAX_LEVELS, f"{one.case}: {levels} levels"

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


class LongRequest:
    """One request that takes seconds, in a thread."""

    def __init__(self, pipeline, steps=300, prompt="a red three on black background", timeout=PATIENCE, **more):
        self.outcome = None
        self._known = {one["id"] for one in pipeline.running()}
        self._pipeline, self._steps = pipeline, steps
        self._case = {"prompt": prompt, "seed": 100, "num_inference_steps": steps, **more}
        self._timeout = timeout
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def replica(self):
        """The id of the replica that runs the request, as soon as it has done some steps."""
        return eventually(self._replica, "the long request under way")

    def _replica(self):
        for one in self._pipeline.running():
            if one["total_steps"] == self._steps and one["step"] > 3:
                return one["replica"]
        return None

    def result(self):
        self._thread.join(PATIENCE)
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
    """The head's count of runs that were lost for this reason."""
    with contextlib.suppress(StopIteration):
        name = f'omni_request_lost_runs_total{{reason="{reason}",'
        line = next(line for line in pipeline.head.get("/metrics").text.splitlines() if line.startswith(name))
        return int(float(line.rpartition(" ")[2]))
    return 0
