"""Checks specimens against diffusers alone: `python -m tests.worker.pipelines.zoo.check MODULE [NAME ...]`."""

import importlib
import sys
import time
import traceback
from typing import Any

import numpy as np
import torch


def arrays(value: Any) -> list[np.ndarray]:
    """Every array in a pipeline's output, in order."""
    if isinstance(value, torch.Tensor):
        return [value.detach().float().numpy()]
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, dict):
        return [array for item in value.values() for array in arrays(item)]
    if isinstance(value, list | tuple):
        return [array for item in value for array in arrays(item)]
    if hasattr(value, "getbands"):
        return [np.asarray(value)]
    return []


def main() -> None:
    torch.set_num_threads(1)
    module = importlib.import_module(f"tests.worker.pipelines.zoo.{sys.argv[1]}")
    for specimen in module.SPECIMENS:
        if sys.argv[2:] and specimen.name not in sys.argv[2:]:
            continue
        try:
            began = time.perf_counter()
            torch.manual_seed(0)
            pipe = specimen.build()
            built = time.perf_counter()
            with torch.no_grad():
                torch.manual_seed(1)
                first = arrays(pipe(**specimen.arguments(0)))
                ran = time.perf_counter()
                torch.manual_seed(1)
                again = arrays(pipe(**specimen.arguments(0)))
                torch.manual_seed(1)
                other = arrays(pipe(**specimen.arguments(1)))
            faults = [
                text
                for text, bad in {
                    "no arrays": not first,
                    "not repeatable": not all(map(np.array_equal, first, again)),
                    "not finite": not all(np.isfinite(array).all() for array in first),
                    "constant": all(array.std() == 0 for array in first),
                    "request 1 gives the same": all(
                        a.shape == b.shape and np.array_equal(a, b) for a, b in zip(first, other, strict=False)
                    ),
                }.items()
                if bad
            ]
            print(specimen.name, ", ".join(faults) or "ok", f"build {built - began:.2f} s, call {ran - built:.2f} s")
        except Exception:
            print(f"{specimen.name}: FAILED")
            traceback.print_exc(limit=-3)


if __name__ == "__main__":
    main()
