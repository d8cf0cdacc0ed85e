"""Writes the thinker into a painter's folder and names it in the folder's `omni.json`, for the serving stack."""

import json
import shutil
import tempfile
from pathlib import Path

from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

SUBFOLDER = "thinker"
MAX_TOKENS = 16
LANGUAGE = {"subfolder": SUBFOLDER, "max_tokens": MAX_TOKENS}


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, painter: Path) -> None:
    """Replace `painter`/thinker with a plain float32 folder, and name it in `painter`/omni.json."""
    target = painter / SUBFOLDER
    with tempfile.TemporaryDirectory(dir=painter, prefix=".saving-") as scratch:
        fresh = Path(scratch) / "fresh"
        model.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        _use_the_name_that_transformers_4_and_5_know(fresh / "tokenizer_config.json")
        for file in fresh.iterdir():
            file.chmod(0o644)
        if target.exists():
            shutil.move(target, Path(scratch) / "old")
        fresh.rename(target)
        target.chmod(0o755)
    defaults = painter / "omni.json"
    content = json.loads(defaults.read_text())
    defaults.write_text(json.dumps({**content, "language": LANGUAGE}, indent=2) + "\n")


def _use_the_name_that_transformers_4_and_5_know(path: Path) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "tokenizer_class": "PreTrainedTokenizerFast"}, indent=2) + "\n")
