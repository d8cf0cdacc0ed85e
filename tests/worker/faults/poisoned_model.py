"""The built-in model with a tokenizer that obeys certain words in a prompt.

It kills or suspends the replica, or lets it fail every request from then on.
"""

import json
import os
import shutil
import time
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from omni_worker.config.model_source import BUILTIN_MODELS

DIES, HANGS, BREAKS = "drop dead", "stand still", "break down"
MARK = "OMNI_TEST_BROKEN_REPLICA"
"""The environment variable with the path of a file that the first replica that is told to break creates."""
is_broken = False


class PoisonedTokenizer(PreTrainedTokenizerFast):
    """Tokenizes every prompt in the engine's thread, and obeys the two special ones."""

    def __call__(self, text=None, *args, **kwargs):
        if DIES in str(text):
            os._exit(66)
        if HANGS in str(text):
            time.sleep(3600)
        if BREAKS in str(text) and not Path(os.environ[MARK]).exists():
            Path(os.environ[MARK]).touch()
            globals()["is_broken"] = True
        if is_broken:
            raise RuntimeError("every call fails from now on")
        return super().__call__(text, *args, **kwargs)


def python_path() -> str:
    """The PYTHONPATH that replicas need to find the tokenizer, before the present one."""
    here = Path(__file__).parent
    return os.pathsep.join(filter(None, (str(here / "site"), str(here.parents[2]), os.environ.get("PYTHONPATH"))))


def make_model(folder: Path) -> str:
    """Write the model, and return its folder."""
    shutil.copytree(BUILTIN_MODELS / "digits", folder)
    index = folder / "model_index.json"
    parts = json.loads(index.read_text())
    parts["tokenizer"] = [__name__, PoisonedTokenizer.__name__]
    index.write_text(json.dumps(parts))
    return str(folder)
