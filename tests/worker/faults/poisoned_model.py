"""A model that a prompt can kill or stop: the built-in one, with a tokenizer that does what certain words say."""

import json
import os
import shutil
import time
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from omni_worker.config.model_source import BUILTIN_MODELS

DIES, HANGS = "drop dead", "stand still"


class PoisonedTokenizer(PreTrainedTokenizerFast):
    """Reads every prompt that a replica runs, in its engine's thread."""

    def __call__(self, text=None, *args, **kwargs):
        if DIES in str(text):
            os._exit(66)
        if HANGS in str(text):
            time.sleep(3600)
        return super().__call__(text, *args, **kwargs)


def python_path() -> str:
    """The PYTHONPATH with which replicas find the tokenizer."""
    here = Path(__file__).parent
    return f"{here / 'site'}:{here.parents[2]}"


def make_model(folder: Path) -> str:
    """Write the model; its folder."""
    shutil.copytree(BUILTIN_MODELS / "digits", folder)
    index = folder / "model_index.json"
    parts = json.loads(index.read_text())
    parts["tokenizer"] = [__name__, PoisonedTokenizer.__name__]
    index.write_text(json.dumps(parts))
    return str(folder)
