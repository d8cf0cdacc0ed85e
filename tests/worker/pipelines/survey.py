"""Runs tiny pipelines through the engine, alone and among others, and compares with diffusers' own calls.

    python -m tests.worker.pipelines.survey [--output docs/pipelines.md] [NAME ...]

runs all of them, or those named, and writes the table of what steps and what shares a batch.
"""

import argparse
import importlib
import json
import pkgutil
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from rich.progress import track

from omni_worker.engine.library import generate
from omni_worker.engine.scheduler import Finished, RequestStatus
from omni_worker.pipelines.components import DENOISE, denoisers
from omni_worker.pipelines.interception.stepping import InterceptedPipeline

from . import zoo
from .zoo.check import arrays
from .zoo.specimen import Specimen

REQUESTS = 4
LEVELS = 255
ALLOWED_LEVELS = 2.0


def specimens() -> list[Specimen]:
    """All of them, by family and name."""
    modules = (importlib.import_module(f"{zoo.__name__}.{info.name}") for info in pkgutil.iter_modules(zoo.__path__))
    found = [specimen for module in modules for specimen in getattr(module, "SPECIMENS", ())]
    return sorted(found, key=lambda specimen: (specimen.family.lower(), specimen.name))


def specimen(module: Any, name: str) -> Specimen:
    """The one of that name in a module of the zoo."""
    return next(one for one in module.SPECIMENS if one.name == name)


@dataclass
class Finding:
    """The outcome for one specimen.

    steps: whether it can run in step mode
    is_exact: whether each request that ran alone gave diffusers' own output, to the bit
    shared: of the calls of requests that ran among others, the part that shared a batch, by the model's name
    levels: by how much, of 255, the outputs of these differed from diffusers' own
    reasons: why calls of a model ran alone
    """

    steps: bool = True
    is_exact: bool = False
    shared: dict[str, float] = field(default_factory=dict)
    levels: float = 0.0
    reasons: dict[str, str] = field(default_factory=dict)
    error: str = ""

    @property
    def batches(self) -> bool:
        """Whether calls of its loop shared a batch."""
        return any(part > 0 for part in self.shared.values())

    @property
    def is_right(self) -> bool:
        """Whether no output was wrong, alone or among others."""
        return self.is_exact and not self.error and self.levels <= ALLOWED_LEVELS


def survey(specimen: Specimen) -> Finding:
    """Build it, run it every way, compare."""
    torch.manual_seed(0)
    reference = specimen.build()
    if not denoisers(reference):
        return Finding(steps=False, is_exact=True, reasons={"": "it calls no denoiser"})
    expected = []
    with torch.no_grad():
        for i in range(REQUESTS):
            torch.manual_seed(1)
            expected.append(arrays(reference(**specimen.arguments(i))))
    torch.manual_seed(0)
    pipeline = InterceptedPipeline(specimen.build())  # another one: models keep traces of what ran before
    counts = CallCounts(pipeline)
    found = Finding()
    alone = [run(pipeline, [specimen.arguments(i)])[0] for i in (0, REQUESTS - 1)]
    if failed := [end.error for end in alone if end.status is not RequestStatus.COMPLETED]:
        return Finding(error=f"alone: {failed[0]!r}")
    found.is_exact = all(
        all(map(np.array_equal, arrays(end.result), expected[i]))
        for i, end in zip((0, REQUESTS - 1), alone, strict=True)
    )
    for _ in range(2):  # the first time proves the batches
        counts.reset()
        together = run(pipeline, [specimen.arguments(i) for i in range(REQUESTS)])
        if failed := [end.error for end in together if end.status is not RequestStatus.COMPLETED]:
            found.error = f"together: {failed[0]!r}"
            return found
        found.levels = max(found.levels, *(difference(end, expected[i]) for i, end in enumerate(together)))
    found.shared = {model: counts.shared[model] / count for model, count in counts.made.items()}
    found.reasons = {model: why for model, why in pipeline.batches.reasons.items() if found.shared.get(model) == 0.0}
    return found


def run(pipeline: InterceptedPipeline, requests: Sequence[Any]) -> list[Finished]:
    torch.manual_seed(1)
    return generate(pipeline, requests)


def difference(end: Finished, expected: list[np.ndarray]) -> float:
    """The largest difference, in 255ths of 1 or of the largest expected value, whichever is larger."""
    worst = 0.0
    for own, other in zip(arrays(end.result), expected, strict=True):
        largest = max(1.0, float(np.abs(other).max(initial=0.0)))
        error = np.abs(own.astype(np.float64) - other.astype(np.float64)).max(initial=0.0)
        worst = max(worst, float(error) / largest * LEVELS)
    return worst


class CallCounts:
    """Counts the calls of each model of the loop, and those of them that share a batch."""

    def __init__(self, pipeline: InterceptedPipeline) -> None:
        self.reset()
        self._real, self._batches = pipeline.batches.run, pipeline.batches
        pipeline.batches.run = self._run  # type: ignore[method-assign]

    def reset(self) -> None:
        self.made: Counter[str] = Counter()
        self.shared: Counter[str] = Counter()

    def _run(self, calls: Any) -> Any:
        before = self._batches.batched_calls
        results = self._real(calls)
        if calls[0].phase == DENOISE:
            self.made[calls[0].model] += len(calls)
            self.shared[calls[0].model] += self._batches.batched_calls - before
        return results


HEAD = """# Pipelines

What the engine makes of diffusers' pipelines, found by running them: each class below was built tiny, from its own
components with random weights, and run through the engine ({versions}).

- **Alone**: whether requests that run alone give diffusers' own output, bit for bit.
- **Among others**: by how much, of 255 levels, the output differs from diffusers' own when four requests of other
  seeds, prompts, step counts and guidance run together.
- **Shares batches**: which of the models that are called in every step run several requests' calls as one, and how many
  of their calls did (the last of four requests is alone at the end, so few reach 100 %).

A class that steps and shares no batch still runs interleaved with others, with progress, abort and preemption.
{summary}

This page is written by `make survey`.

| pipeline | family | task | steps | alone | among others | shares batches |
|---|---|---|---|---|---|---|
"""


def row(specimen: Specimen, found: Finding) -> str:
    """A specimen's line in the table."""
    if not found.steps:
        why = "; ".join(found.reasons.values())
        return f"| {specimen.name} | {specimen.family} | {specimen.task} | no: {why} (request mode) | | | |"
    if found.error:
        return f"| {specimen.name} | {specimen.family} | {specimen.task} | **fails**: {found.error} | | | |"
    shares = []
    for model, part in sorted(found.shared.items()):
        why = f" ({found.reasons[model]})" if model in found.reasons else ""
        shares.append(f"{model} {part:.0%}" if part else f"{model}: no{why}")
    cells = ("yes", "exact" if found.is_exact else "**differs**", f"{found.levels:.2f}", "; ".join(shares))
    return f"| {specimen.name} | {specimen.family} | {specimen.task} | {' | '.join(cells)} |"


def entry(specimen: Specimen, found: Finding) -> dict[str, Any]:
    """The same as data, for `omni models`."""
    return {
        "family": specimen.family,
        "task": specimen.task,
        "steps": found.steps and not found.error,
        "shares": {model: part > 0 for model, part in sorted(found.shared.items())},
    }


def summary(findings: dict[str, Finding]) -> str:
    stepping = [found for found in findings.values() if found.steps and not found.error]
    exact = sum(found.is_exact for found in stepping)
    wrong = sum(not found.is_right for found in findings.values())
    return (
        f"\nOf {len(findings)} cases, {len(stepping)} step, {exact} of these bit for bit; "
        f"{sum(found.batches for found in stepping)} share batches; {wrong} gave a wrong output."
    )


def main() -> int:
    """Survey, print what is not as it should be, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these")
    parser.add_argument("--output", type=Path, help="where to write the table")
    parser.add_argument("--data", type=Path, help="where to write what `omni models` knows")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    findings: dict[str, Finding] = {}
    chosen = [specimen for specimen in specimens() if not args.names or specimen.name in args.names]
    for specimen in track(chosen, description="surveying"):
        findings[specimen.name] = found = survey(specimen)
        if not found.is_right or args.names:
            print(specimen.name, found, flush=True)
    print(summary(findings).strip())
    if args.output:
        versions = f"diffusers {importlib.import_module('diffusers').__version__}, torch {torch.__version__}"
        text = HEAD.format(versions=versions, summary=summary(findings))
        rows = [row(specimen, findings[specimen.name]) for specimen in chosen]
        args.output.write_text(text + "\n".join(rows) + "\n")
    if args.data:
        entries = {specimen.name: entry(specimen, findings[specimen.name]) for specimen in chosen}
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(one)}" for name, one in sorted(entries.items()))
        args.data.write_text(f"{{\n{lines}\n}}\n")
    return sum(not found.is_right for found in findings.values())


if __name__ == "__main__":
    sys.exit(main())
