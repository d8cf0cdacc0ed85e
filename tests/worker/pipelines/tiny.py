"""Tiny pipelines with random weights, and what diffusers itself makes of their requests."""

import torch

from .survey import specimen
from .zoo import qwen_image, stable_diffusion_xl
from .zoo.check import arrays

# Tiny models gain nothing from a second thread, and lose much if another process uses that core.
torch.set_num_threads(1)

QWEN = specimen(qwen_image, "QwenImagePipeline")
SDXL = specimen(stable_diffusion_xl, "StableDiffusionXLPipeline")


def build(one):
    torch.manual_seed(0)
    return one.build()


def first_image(output):
    return arrays(output)[0]


def expected(pipe, one, i):
    with torch.no_grad():
        return first_image(pipe(**one.arguments(i)))
