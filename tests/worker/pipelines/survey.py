"""Runs one specimen through the engine, alone and among others, and compares with diffusers' own call."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from omni_worker.engine.library import generate
from omni_worker.engine.scheduler import Finished, Status
from omni_worker.pipelines.calls import DENOISE
from omni_worker.pipelines.interception import InterceptedPipeline

from .zoo.check import arrays
from .zoo.specimen import Specimen

REQUESTS = 4
LEVELS = 255


@dataclass
class Finding:
    """What became of a specimen.

    alone: whether a request that ran alone gave diffusers' own output, to the bit
    batched: of the denoiser calls of requests that ran among others, the part that shared a batch
    levels: by how much, of 255, their outputs differed from diffusers' own
    """

    steps: int = 0
    alone: bool = False
    batched: float = 0.0
    levels: float = 0.0
    phases: tuple[str, ...] = ()
    error: str = ""


def survey(specimen: Specimen) -> Finding:
    """Build it, run it every way, compare."""
    torch.manual_seed(0)
    pipe = specimen.build()
    expected = []
    with torch.no_grad():
        for i in range(REQUESTS):
            torch.manual_seed(1)
            expected.append(arrays(pipe(**specimen.arguments(i))))
    torch.manual_seed(0)
    pipeline = InterceptedPipeline(specimen.build())  # another one: models keep traces of what ran before
    counts = CallCounts(pipeline)
    torch.manual_seed(1)
    ended = generate(pipeline, [specimen.arguments(0)], max_num_seqs=1)
    found = Finding(phases=tuple(sorted(counts.phases)))
    if ended[0].status is not Status.COMPLETED:
        return Finding(error=f"alone: {ended[0].error!r}")
    found.alone = all(map(np.array_equal, arrays(ended[0].result), expected[0]))
    found.steps = counts.denoising
    torch.manual_seed(1)
    generate(pipeline, [specimen.arguments(i) for i in range(REQUESTS)])  # proves the keys
    counts.reset()
    torch.manual_seed(1)
    ended = generate(pipeline, [specimen.arguments(i) for i in range(REQUESTS)])
    failed = [end.error for end in ended if end.status is not Status.COMPLETED]
    if failed:
        found.error = f"together: {failed[0]!r}"
        return found
    found.levels = max(difference(end, expected[i]) for i, end in enumerate(ended))
    found.batched = counts.shared / max(1, counts.denoising)
    return found


def difference(end: Finished, expected: list[np.ndarray]) -> float:
    """The largest, in levels where the values are those of a picture, of 255 to the largest of them where not."""
    worst = 0.0
    for own, other in zip(arrays(end.result), expected, strict=True):
        own, other = own.astype(np.float64), other.astype(np.float64)
        scale = 1.0 if own.dtype == np.uint8 else LEVELS / max(1.0, float(np.abs(other).max(initial=0.0)))
        worst = max(worst, float(np.abs(own - other).max(initial=0.0)) * scale)
    return worst


class CallCounts:
    """Counts the denoiser calls that a pipeline makes, and those of them that share a batch."""

    def __init__(self, pipeline: InterceptedPipeline) -> None:
        self.phases: set[str] = set()
        self.reset()
        self._real, self._batches = pipeline.batches.run, pipeline.batches
        pipeline.batches.run = self._run  # type: ignore[method-assign]

    def reset(self) -> None:
        self.denoising = self.shared = 0

    def _run(self, calls: Any) -> Any:
        before = self._batches.batched_calls
        answers = self._real(calls)
        self.phases.add(calls[0].phase)
        if calls[0].phase == DENOISE:
            self.denoising += len(calls)
            self.shared += self._batches.batched_calls - before
        return answers
