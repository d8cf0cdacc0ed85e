"""Write a pipeline as the package ships it: fp16 weights that any plain load turns into consistent float32."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import QwenImagePipeline

from omni_worker.models.digits_recipe.captions import NULL_PROMPT

STEPS = 4
GUIDANCE = 2.0
SERVING_DEFAULTS = {
    "num_inference_steps": STEPS,
    "guidance_scale": GUIDANCE,
    "negative_prompt": NULL_PROMPT,
    "width": 32,
    "height": 32,
}


def save(pipeline: QwenImagePipeline, target: Path) -> None:
    """Replace the folder `target` with `pipeline`; a reader finds the old model or the new one, never half of one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".saving-") as scratch:
        fresh = Path(scratch) / "fresh"
        pipeline.to(torch.float16)
        pipeline.save_pretrained(fresh)
        pipeline.to(torch.float32)
        _tidy(fresh)
        if target.exists():
            target.rename(Path(scratch) / "old")
        fresh.rename(target)
        target.chmod(0o755)


def _tidy(folder: Path) -> None:
    # transformers loads in the dtype that its config names, diffusers in float32: without this, a plain load would mix.
    _edit(folder / "text_encoder" / "config.json", dtype="float32")
    # The name that transformers 4 and 5 both know.
    _edit(folder / "tokenizer" / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    _edit(folder / "model_index.json", tokenizer=["transformers", "PreTrainedTokenizerFast"])
    (folder / "omni.json").write_text(json.dumps({"defaults": SERVING_DEFAULTS}, indent=2) + "\n")
    shutil.copyfile(Path(__file__).with_name("MODEL_CARD.md"), folder / "README.md")


def _edit(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text())
    content.update(values)
    path.write_text(json.dumps(content, indent=2) + "\n")
