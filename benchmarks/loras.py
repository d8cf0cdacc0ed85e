"""LoRA adapters mixed within batches: 16 requests with 8 adapters that arrive together, against the same requests one
adapter at a time, as peers batch them, and against the same requests without adapters.

    python -m benchmarks.loras [--quick] [--sweeps 3]
"""

import copy
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks import common, systems
from msgspec.structs import replace
from peft import LoraConfig, get_peft_model_state_dict
from rich.progress import track
from rich.table import Table

from omni_worker.requests import GenerationParams, LoraChoice

SIDES = {"16 tokens": 32, "64 tokens": 64, "256 tokens": 128}
ADAPTERS, REQUESTS, RANK = 8, 16, 16
STEPS, QUICK_STEPS = 10, 2
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def add_adapters(model: systems.Model, folder: Path) -> None:
    """Load random adapters of the denoiser's attention into the model that runs step by step."""
    pipe = systems.Model().pipe
    for number in range(ADAPTERS):
        transformer = copy.deepcopy(pipe.transformer)
        torch.manual_seed(number)
        config = LoraConfig(r=RANK, lora_alpha=RANK, init_lora_weights=False, target_modules=TARGETS)
        transformer.add_adapter(config, adapter_name="written")
        layers = get_peft_model_state_dict(transformer, adapter_name="written")
        name = f"adapter-{number}"
        type(pipe).save_lora_weights(folder, layers, weight_name=f"{name}.safetensors")
        model.stepped.adapters.load(name, folder / f"{name}.safetensors")


def by_adapter(model: systems.Model, params: list[GenerationParams]) -> list[np.ndarray]:
    """The requests' images, with batches of one adapter each."""
    images: dict[int, np.ndarray] = {}
    for choice in dict.fromkeys(one.loras for one in params):
        places = [place for place, one in enumerate(params) if one.loras == choice]
        images |= zip(places, systems.run_engine(systems.step_mode(), model, [params[i] for i in places]), strict=True)
    return [images[place] for place in range(len(params))]


def measure(model: systems.Model, side: int, steps: int, sweeps: int) -> dict[str, Any]:
    """The ratios at one size, and by how many levels images differ from those made one adapter at a time."""
    params = [
        replace(systems.request(i, side, steps), loras=(LoraChoice(f"adapter-{i % ADAPTERS}"),))
        for i in range(REQUESTS)
    ]
    plain = [replace(one, loras=()) for one in params]
    together = partial(systems.run_engine, systems.step_mode(), model, params)
    apart = partial(by_adapter, model, params)
    without = partial(systems.run_engine, systems.step_mode(), model, plain)
    images = {run: [run() for _ in range(2)][-1] for run in (together, apart, without)}  # warms up, and proves batches
    return {
        "to one adapter at a time": common.compare({"base": apart, "mixed": together}, sweeps)["mixed"].figures(),
        "to no adapters": common.compare({"base": without, "mixed": together}, sweeps)["mixed"].figures(),
        "levels": systems.levels(images[together], images[apart]),
    }


def main() -> None:
    """Measure every size and print the table."""
    parser = common.parser(__doc__, "loras")
    parser.add_argument("--sweeps", type=int, default=3, help="good pairs wanted of each cell")
    args = parser.parse_args()
    common.start(args)
    before, model = common.machine(), systems.Model()
    with tempfile.TemporaryDirectory() as folder:
        add_adapters(model, Path(folder))
    sides, steps, sweeps = ({"16 tokens": 32}, QUICK_STEPS, 1) if args.quick else (SIDES, STEPS, args.sweeps)
    cells = {
        name: measure(model, side, steps, sweeps)
        for name, side in track(sides.items(), description="sizes", console=common.console)
    }
    columns = ("to one adapter at a time", "to no adapters")
    table = Table("", *columns, title=f"requests per second: {REQUESTS} requests with {ADAPTERS} adapters")
    for name, cell in cells.items():
        table.add_row(name, *(common.text(cell[column]) for column in columns))
    common.console.print(table)
    if not args.quick:
        common.write(args.output, before, {"adapters": ADAPTERS, "requests": REQUESTS, "rank": RANK, "cells": cells})


if __name__ == "__main__":
    main()
