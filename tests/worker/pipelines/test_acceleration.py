"""The short way of single frames, and compiled denoisers: the same results, by less work."""

import copy

import pytest
import torch

from omni_worker.engine.library import generate
from omni_worker.engine.scheduler import RequestStatus
from omni_worker.pipelines.acceleration import compile_denoisers, shorten_single_frames
from omni_worker.pipelines.batching.batches import ProvenBatches
from omni_worker.pipelines.interception.stepping import InterceptedPipeline

from .survey import difference, specimen
from .zoo import qwen_image, wan
from .zoo.check import arrays

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


def test_a_compiled_denoiser_runs_in_few_batch_sizes():
    one = specimen(qwen_image, "QwenImagePipeline")
    torch.manual_seed(0)
    pipe = one.build()
    with torch.no_grad():
        expected = [arrays(pipe(**one.arguments(i))) for i in range(3)]
    assert compile_denoisers(pipe, backend="eager") == ["transformer"]
    sizes = []
    compiled = pipe.transformer.forward
    vars(pipe.transformer)["forward"] = lambda **kwargs: (
        sizes.append(len(kwargs["hidden_states"])) or compiled(**kwargs)
    )
    ended = generate(
        InterceptedPipeline(pipe, batches=ProvenBatches(buckets=(1, 2, 4, 8))), [one.arguments(i) for i in range(3)]
    )
    assert all(end.status is RequestStatus.COMPLETED for end in ended)
    assert max(difference(end, own) for end, own in zip(ended, expected, strict=True)) <= 2
    assert 4 in sizes
    assert set(sizes) <= {1, 2, 4, 8}
