"""Runs tiny pipelines through the engine, alone and among others, and compares with diffusers' own calls.

    python -m tests.worker.pipelines.survey [--output docs/pipelines.md] [NAME ...]

runs all of them, or those named, in float32 and bfloat16, and writes the table of what steps and what shares a batch.
With `--resume FILE` an interrupted survey continues where it ended.
"""

import argparse
import importlib
import json
import pkgutil
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from diffusers import ModularPipeline
from diffusers.guiders import BaseGuidance
from rich.progress import track
from torch.utils._pytree import tree_map

from omni_worker.engine.library import generate
from omni_worker.engine.scheduler import Finished, RequestStatus
from omni_worker.pipelines.components import DENOISE, denoisers
from omni_worker.pipelines.interception.stepping import InterceptedPipeline
from omni_worker.pipelines.modular import RESULTS, as_pipeline

from . import zoo
from .zoo.check import arrays
from .zoo.specimen import Specimen

REQUESTS = 4
LEVELS = 255
# By how much rounding can change an output, of 255 levels. In bfloat16 that is visible, most with random weights.
ALLOWED_LEVELS = {"float32": 2.0, "bfloat16": 30.0}
# A batch rounds in every layer, and `rounding` only changes what a model returns.
ROUNDING_FACTOR = 3.0
ROUNDING_STEP = 2.0**-8  # of bfloat16, relative
ROUNDING_SEEDS = 1, 2


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
    rounding: by how much diffusers' own output differs if each value that a model returns moves by one rounding step or
        less; measured only where `levels` is above what is allowed
    reasons: why calls of a model ran alone
    unsupported: why diffusers itself cannot run it in this dtype
    """

    dtype: str = "float32"
    steps: bool = True
    is_exact: bool = False
    shared: dict[str, float] = field(default_factory=dict)
    levels: float = 0.0
    rounding: float = 0.0
    reasons: dict[str, str] = field(default_factory=dict)
    error: str = ""
    unsupported: str = ""

    @property
    def batches(self) -> bool:
        """Whether calls of its loop shared a batch."""
        return any(part > 0 for part in self.shared.values())

    @property
    def is_right(self) -> bool:
        """Whether no output was wrong, alone or among others."""
        if self.unsupported:
            return True
        allowed = max(ALLOWED_LEVELS[self.dtype], ROUNDING_FACTOR * self.rounding)
        return self.is_exact and not self.error and self.levels <= allowed


def survey(specimen: Specimen, dtype: str = "float32") -> Finding:
    """Build it, run it every way, compare."""
    reference = build(specimen, dtype)
    if not denoisers(reference):
        return Finding(dtype, steps=False, is_exact=True, reasons={"": "it calls no denoiser"})
    expected = []
    try:
        with torch.no_grad():
            for i in range(REQUESTS):
                torch.manual_seed(1)
                expected.append(arrays(own_result(reference, specimen.arguments(i))))
    except Exception as error:  # a pipeline may raise anything in a dtype that it does not support
        if dtype == "float32":
            raise
        return Finding(dtype, unsupported=f"{type(error).__name__}: {error}")
    pipeline = InterceptedPipeline(callable_form(build(specimen, dtype)))  # another one: models keep traces of runs
    counts = CallCounts(pipeline)
    found = Finding(dtype)
    alone = [run(pipeline, [specimen.arguments(i)])[0] for i in (0, REQUESTS - 1)]
    if failed := [end.error for end in alone if end.status is not RequestStatus.COMPLETED]:
        return Finding(dtype, error=f"alone: {failed[0]!r}")
    found.is_exact = all(
        all(np.array_equal(*pair, equal_nan=True) for pair in zip(arrays(end.result), expected[i], strict=True))
        for i, end in zip((0, REQUESTS - 1), alone, strict=True)
    )
    for _ in range(2):  # the first time proves the batches
        counts.reset()
        together = run(pipeline, [specimen.arguments(i) for i in range(REQUESTS)])
        if failed := [end.error for end in together if end.status is not RequestStatus.COMPLETED]:
            found.error = f"together: {failed[0]!r}"
            return found
        results = [arrays(end.result) for end in together]
        found.levels = max(found.levels, *map(difference, results, expected))
    if dtype != "float32" and found.levels > ALLOWED_LEVELS[dtype]:
        found.rounding = rounding(specimen, dtype, expected)
    found.shared = {model: counts.shared[model] / count for model, count in counts.made.items()}
    found.reasons = {model: why for model, why in pipeline.batches.reasons.items() if found.shared.get(model) == 0.0}
    return found


def build(specimen: Specimen, dtype: str) -> Any:
    """The pipeline of a specimen, in `dtype`."""
    torch.manual_seed(0)
    pipe = specimen.build()
    pipe.set_progress_bar_config(disable=True)
    return pipe if dtype == "float32" else pipe.to(getattr(torch, dtype))


def callable_form(pipe: Any) -> Any:
    """The pipeline as the engine takes it."""
    return as_pipeline(pipe) if isinstance(pipe, ModularPipeline) else pipe


def own_result(pipe: Any, arguments: dict[str, Any]) -> Any:
    """What diffusers itself returns for these arguments, of a modular pipeline without any code of ours.

    The scales of its guidance are not arguments there: they are set in its guiders.
    """
    if not isinstance(pipe, ModularPipeline):
        return pipe(**arguments)
    inputs, rest = pipe.blocks.input_names, dict(arguments)
    for name, guider in pipe.components.items():
        scale = name.replace("guider", "guidance_scale")
        if isinstance(guider, BaseGuidance) and scale in rest and scale not in inputs:
            pipe.update_components(**{name: guider.new(guidance_scale=rest.pop(scale))})
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Unexpected input")
        state = pipe(**rest)
    return [state.get(name) for name in pipe.blocks.output_names if name in RESULTS and state.get(name) is not None]


def run(pipeline: InterceptedPipeline, requests: Sequence[Any]) -> list[Finished]:
    torch.manual_seed(1)
    return generate(pipeline, requests)


def rounding(specimen: Specimen, dtype: str, expected: Sequence[list[np.ndarray]]) -> float:
    """By how much diffusers' own output differs if all that its denoisers return is rounded otherwise."""
    worst = 0.0
    for seed in ROUNDING_SEEDS:
        pipe, chance = build(specimen, dtype), torch.Generator().manual_seed(seed)

        def move(value: Any, chance: torch.Generator = chance) -> Any:
            if not torch.is_tensor(value) or not value.is_floating_point():
                return value
            steps = torch.randint(-1, 2, value.shape, generator=chance)
            return (value.float() * (1 + steps * ROUNDING_STEP)).to(value.dtype)

        for name in denoisers(pipe):
            getattr(pipe, name).register_forward_hook(lambda model, args, out, move=move: tree_map(move, out))
        with torch.no_grad():
            for i, own in enumerate(expected):
                torch.manual_seed(1)
                worst = max(worst, difference(arrays(own_result(pipe, specimen.arguments(i))), own))
    return worst


def difference(results: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """The largest difference, in 255ths of 1 or of the largest expected value, whichever is larger."""
    worst = 0.0
    for own, other in zip(results, expected, strict=True):
        finite = np.isfinite(other)  # in bfloat16 some random models overflow, alone as well
        if not np.isfinite(own[finite]).all():
            return float("inf")
        largest = max(1.0, float(np.abs(other[finite]).max(initial=0.0)))
        error = np.abs(own[finite].astype(np.float64) - other[finite].astype(np.float64)).max(initial=0.0)
        worst = max(worst, float(error) / largest * LEVELS)
    return worst


class CallCounts:
    """Counts the calls of each model of the loop, and those of them that share a batch."""

    def __init__(self, pipeline: InterceptedPipeline) -> None:
        self.reset()
        self._real, self._batches = pipeline.batches.compute, pipeline.batches
        pipeline.batches.compute = self._compute  # type: ignore[method-assign]

    def reset(self) -> None:
        self.made: Counter[str] = Counter()
        self.shared: Counter[str] = Counter()

    def _compute(self, calls: Any) -> Any:
        before = self._batches.batched_calls
        outcomes = self._real(calls)
        if calls[0].phase == DENOISE:
            self.made[calls[0].model] += len(calls)
            self.shared[calls[0].model] += self._batches.batched_calls - before
        return outcomes


HEAD = """# Pipelines

What the engine makes of diffusers' pipelines, found by running them: each class below was built tiny, from its own
components with random weights, and run through the engine ({versions}).

- **Alone**: whether requests that run alone give diffusers' own output, bit for bit.
- **Among others**: by how much, of 255 levels, the output differs from diffusers' own when four requests of other
  seeds, prompts, step counts and guidance run together.
- **Shares batches**: which of the models that are called in every step run several requests' calls as one, and how many
  of their calls did (the last of four requests is alone at the end, so few reach 100 %).
- Names with `Modular` are diffusers' modular pipelines, compared with their own calls without any code of this project.
- **bfloat16**: the same two findings in bfloat16, the default on GPUs; a dash where diffusers itself cannot run the
  tiny pipeline in it. A batch rounds differently than its requests alone, which bfloat16 and random weights make
  visible. Where the difference is above {allowed} levels, a bracket says by how much diffusers' own output moves when
  each value that its models return moves by at most one rounding step; above three times of that it counts as wrong.

A class that steps and shares no batch still runs interleaved with others, with progress, abort and preemption.
{summary}

This page is written by `make survey`.

| pipeline | family | task | steps | alone | among others | shares batches | bfloat16: alone | among others |
|---|---|---|---|---|---|---|---|---|
"""


def row(specimen: Specimen, found: Finding, in_bfloat16: Finding | None = None) -> str:
    """A specimen's line in the table."""
    if not found.steps:
        why = "; ".join(found.reasons.values())
        return f"| {specimen.name} | {specimen.family} | {specimen.task} | no: {why} (request mode) | | | | | |"
    if found.error:
        return f"| {specimen.name} | {specimen.family} | {specimen.task} | **fails**: {found.error} | | | | | |"
    shares = []
    for model, part in sorted(found.shared.items()):
        why = f" ({found.reasons[model]})" if model in found.reasons else ""
        shares.append(f"{model} {part:.0%}" if part else f"{model}: no{why}")
    cells = ("yes", "exact" if found.is_exact else "**differs**", f"{found.levels:.2f}", "; ".join(shares))
    return f"| {specimen.name} | {specimen.family} | {specimen.task} | {' | '.join((*cells, *halves(in_bfloat16)))} |"


def halves(found: Finding | None) -> tuple[str, str]:
    """The cells for bfloat16."""
    if found is None or found.unsupported:
        return "–", "–"
    if found.error:
        return "**fails**", found.error
    moved = f" ({found.rounding:.0f} by rounding)" if found.rounding else ""
    return "exact" if found.is_exact else "**differs**", f"{found.levels:.2f}{moved}"


def entry(specimen: Specimen, found: Finding) -> dict[str, Any]:
    """The same as data, for `omni models`."""
    return {
        "family": specimen.family,
        "task": specimen.task,
        "steps": found.steps and not found.error,
        "shares": {model: part > 0 for model, part in sorted(found.shared.items())},
    }


def summary(findings: dict[str, Finding], in_bfloat16: dict[str, Finding]) -> str:
    stepping = [found for found in findings.values() if found.steps and not found.error]
    exact = sum(found.is_exact for found in stepping)
    wrong = sum(not found.is_right for found in findings.values())
    ran = [found for found in in_bfloat16.values() if found.steps and not found.unsupported]
    return (
        f"\nOf {len(findings)} cases, {len(stepping)} step, {exact} of these bit for bit; "
        f"{sum(found.batches for found in stepping)} share batches; {wrong} gave a wrong output.\n"
        f"In bfloat16, diffusers runs {len(ran)} of them; {sum(found.is_exact for found in ran)} are exact alone; "
        f"{sum(not found.is_right for found in ran)} failed or gave a wrong output."
    )


class Findings:
    """The findings so far, by dtype and name, kept in a file if there is one."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._found: dict[str, dict[str, Finding]] = {dtype: {} for dtype in ALLOWED_LEVELS}
        if file is not None and file.exists():
            for dtype, findings in json.loads(file.read_text()).items():
                self._found[dtype] = {name: Finding(**one) for name, one in findings.items()}

    def of(self, specimen: Specimen, dtype: str) -> Finding:
        """The finding, from the file if it is there."""
        findings = self._found[dtype]
        if specimen.name not in findings:
            findings[specimen.name] = survey(specimen, dtype)
            if self._file is not None:
                known = {kind: {name: asdict(one) for name, one in own.items()} for kind, own in self._found.items()}
                self._file.write_text(json.dumps(known))
        return findings[specimen.name]


def main() -> int:
    """Survey, print what is not as it should be, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these")
    parser.add_argument("--output", type=Path, help="where to write the table")
    parser.add_argument("--data", type=Path, help="where to write what `omni models` knows")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="keep findings here, and take those that are there")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    diffusers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    chosen = [specimen for specimen in specimens() if not args.names or specimen.name in args.names]
    kept, findings = Findings(args.resume), {dtype: dict[str, Finding]() for dtype in ALLOWED_LEVELS}
    for specimen in track(chosen, description="surveying"):
        for dtype, own in findings.items():
            own[specimen.name] = found = kept.of(specimen, dtype)
            if not found.is_right or args.names:
                print(specimen.name, found, flush=True)
    full, half = findings["float32"], findings["bfloat16"]
    print(summary(full, half).strip())
    if args.output:
        versions = f"diffusers {diffusers.__version__}, torch {torch.__version__}"
        text = HEAD.format(versions=versions, summary=summary(full, half), allowed=round(ALLOWED_LEVELS["bfloat16"]))
        rows = [row(specimen, full[specimen.name], half[specimen.name]) for specimen in chosen]
        args.output.write_text(text + "\n".join(rows) + "\n")
    if args.data:
        entries = {specimen.name: entry(specimen, full[specimen.name]) for specimen in chosen}
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(one)}" for name, one in sorted(entries.items()))
        args.data.write_text(f"{{\n{lines}\n}}\n")
    return sum(not found.is_right for own in findings.values() for found in own.values())


if __name__ == "__main__":
    sys.exit(main())
