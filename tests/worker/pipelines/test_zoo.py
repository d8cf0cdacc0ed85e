"""diffusers' pipelines through the engine: to the bit alone, to rounding among others, as docs/pipelines.md says.

All of them take minutes (`make survey`, or OMNI_SURVEY=all here); otherwise one of each family runs, and one of each
kind of difficulty.
"""

import os
import warnings
from pathlib import Path

import pytest
import torch

from .survey import Specimen, row, specimens, survey

TABLE = Path(__file__).parents[3] / "docs" / "pipelines.md"
DIFFICULT = {
    "WanPipeline-two": "two denoisers",
    "WanVACEPipeline": "a scale for each layer, as long as the batch by accident",
    "QwenImagePipeline-lengths": "prompts of different lengths, without masks",
    "QwenImagePipeline-masks": "prompts of different lengths, with masks",
    "ZImagePipeline-lengths": "lists of sequences of different lengths",
    "StableDiffusionXLPAGPipeline": "attention processors set by the call, a batch cut into thirds",
    "StableDiffusionAttendAndExcitePipeline": "gradients through the denoiser",
    "StableDiffusionSAGPipeline": "hooks",
    "StableDiffusionGLIGENPipeline": "switches in layers, turned in mid-loop",
    "StableDiffusionXLControlNetPipeline": "two models in each step",
    "StableDiffusionXLControlNetUnionPipeline": "a model whose rows see each other",
    "StableDiffusionXLAdapterPipeline": "a model that takes its arguments apart",
    "StableDiffusionInpaintPipeline": "inpainting",
    "FluxKontextPipeline": "image editing",
    "Flux2KleinKVPipeline": "a cache handed from step to step",
    "QwenImage21Pipeline": "a cache that the first step writes",
    "HiDreamImagePipeline": "a batch dimension that is the second",
    "AnimateDiffPipeline": "frames folded into rows",
    "LTX2Pipeline": "a timestep scheduler copied by the pipeline, sound and video",
    "KandinskyV22CombinedPipeline": "pipelines inside a pipeline",
    "BriaPipeline": "the class of the timestep scheduler",
    "LTXLatentUpsamplePipeline": "no denoiser",
    "Flux3ModularPipeline": "a prompt that a language model writes first",
    "HeliosPyramidModularPipeline": "blocks with loops in loops",
    "LTX2ModularPipeline": "two guiders",
}


def chosen() -> list[Specimen]:
    everything = specimens()
    if os.environ.get("OMNI_SURVEY") == "all":
        return everything
    classic = [specimen for specimen in everything if "Modular" not in specimen.name]
    first_of_family = {specimen.family: specimen.name for specimen in reversed(classic)}
    return [one for one in everything if one.name in DIFFICULT or first_of_family.get(one.family) == one.name]


def test_the_difficult_ones_exist():
    assert DIFFICULT.keys() <= {specimen.name for specimen in specimens()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("specimen", chosen(), ids=lambda specimen: specimen.name)
def test_outputs_are_diffusers_own_and_the_table_says_so(specimen):
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found = survey(specimen)
    assert found.is_right, found
    line = next(line for line in TABLE.read_text().splitlines() if line.startswith(f"| {specimen.name} |"))
    said, is_now = line.split("|"), row(specimen, found).split("|")
    assert said[2:6] == is_now[2:6], "run `make survey`"
    assert ("no" in said[7]) == ("no" in is_now[7]), "run `make survey`"
