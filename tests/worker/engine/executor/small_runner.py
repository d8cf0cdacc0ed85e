"""A small runner for the tests of the multi-process executor, and the factories that build it in a worker."""

import os
import threading

import numpy as np
import torch

from omni_worker.engine.runner import Runner
from omni_worker.engine.scheduler import RequestOutput, RunnerOutput
from omni_worker.errors import CommandError, RequestError
from omni_worker.parallel.ranks import Ranks


class Thing:
    """Something that pickle cannot take."""

    def __init__(self):
        self.lock = threading.Lock()


class SmallRunner(Runner):
    """A payload is a tensor of rows. Each step multiplies every row by the model's weights; three steps, then a result.

    Payloads that are texts say what goes wrong: `hang`, `raise`, or what `_prepare` knows.
    """

    rpc_methods = ("stats", "keep", "kept", "make", "wait", "fail", "unsendable", "where")

    def __init__(self, ranks):
        self._ranks = ranks
        self._weights = torch.randn(16, 16, generator=torch.Generator().manual_seed(0)) / 4
        self._states = {}
        self._kept = None

    def execute(self, output):
        for id in output.finished:
            self._states.pop(id, None)
        new = [self._prepare(request) for request in output.new]
        if output.cached:
            rows = [self._states[id][1] for id in output.cached]
            answers = self._ranks.spread([lambda row=row: row @ self._weights for row in rows])
            for id, answer in zip(output.cached, answers, strict=True):
                self._states[id] = (self._states[id][0] + 1, answer)
        return RunnerOutput(output.step_id, (*new, *(self._outcome(id) for id in output.cached)))

    def _prepare(self, request):
        if isinstance(request.payload, str):
            match request.payload:
                case "hang":
                    threading.Event().wait()
                case "raise":
                    raise RuntimeError("the device is lost") from ValueError("a wire came loose")
                case "invalid":
                    return RequestOutput(request.id, error=RequestError("invalid", "no such size", "width"))
                case "on the last rank only" if self._ranks.rank == self._ranks.size - 1:
                    return RequestOutput(request.id, error=MemoryError("full"))
            return RequestOutput(request.id, result="done")
        self._states[request.id] = (0, request.payload)
        return self._outcome(request.id)

    def _outcome(self, id):
        steps, value = self._states[id]
        if steps < 3:
            return RequestOutput(id, key=("small", value.shape), step=steps, total_steps=3)
        return RequestOutput(id, step=3, total_steps=3, result=value)

    def stats(self):
        return {"states": len(self._states)}

    def keep(self, value):
        self._kept = value

    def kept(self):
        return self._kept

    def make(self, count):
        return torch.arange(count, dtype=torch.float32) + self._ranks.rank, np.arange(count)[::2]

    def wait(self, seconds):
        threading.Event().wait(seconds)
        return seconds

    def fail(self, rank):
        if rank == self._ranks.rank:
            raise KeyError("nothing there")

    def unsendable(self):
        return Thing()

    def where(self):
        return os.environ.get("CUDA_VISIBLE_DEVICES"), torch.initial_seed(), hash("a text"), torch.get_num_threads()

    def close(self):
        self._states.clear()


def build(ranks: Ranks, name: str):
    return SmallRunner(ranks), f"{name} on rank {ranks.rank}"


def not_found(ranks: Ranks):
    if ranks.rank == ranks.size - 1:
        raise CommandError("the model nowhere://else cannot be loaded: no such folder")
    return SmallRunner(ranks), None


def dies(ranks: Ranks):
    if ranks.rank == 0:
        os._exit(7)
    return SmallRunner(ranks), None
