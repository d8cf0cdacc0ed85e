"""The short way of single frames: the same results, by less work."""

import copy

import pytest
import torch

from omni_worker.pipelines.acceleration import shorten_single_frames

from .survey import specimen
from .zoo import qwen_image, wan

torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("module", "name"), [(qwen_image, "QwenImagePipeline"), (wan, "WanPipeline")], ids=["Qwen-Image", "Wan"]
)
@torch.no_grad()
def test_single_frames_take_the_shorter_way_to_the_same_image(module, name):
    torch.manual_seed(0)
    vae = specimen(module, name).build().vae
    short = copy.deepcopy(vae)
    assert shorten_single_frames(short) > 4
    latents = torch.randn(2, vae.config.z_dim, 1, 8, 8)
    expected, got = vae.decode(latents).sample, short.decode(latents).sample
    assert (got - expected).abs().max() <= 2e-5 * max(1.0, float(expected.abs().max()))
    several = torch.randn(1, vae.config.z_dim, 3, 8, 8)
    again = copy.deepcopy(short)  # bound to its own weights
    for parameter in again.parameters():
        parameter.mul_(2.0)
    assert torch.allclose(vae.decode(several).sample, short.decode(several).sample, atol=2e-5)
    assert not torch.allclose(short.decode(latents).sample, again.decode(latents).sample)
