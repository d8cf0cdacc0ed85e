"""Models that ship with the worker. Each is a folder that `DiffusionPipeline.from_pretrained` loads, no code attached.

`omni.json` beside a model's `model_index.json` holds the defaults it is served with. `digits_recipe` is the script that
made `digits`; serving never imports it.
"""

from pathlib import Path

DIGITS = Path(__file__).parent / "digits"
