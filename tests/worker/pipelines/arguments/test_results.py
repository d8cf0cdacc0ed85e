"""What a pipeline's call returns, as the bytes of images."""

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor

from omni_worker.pipelines.arguments.results import NotFinite, UnfinishedResult, output_type_of, unfinished_result

from ..survey import specimen
from ..tiny import QWEN, SDXL, build
from ..zoo import pixel, stable_diffusion, wan


def as_diffusers(images):
    """diffusers' own conversion, `numpy_to_pil`."""
    return (np.clip(images, 0.0, 1.0) * 255).round().astype("uint8")


@pytest.mark.parametrize("shape", [(2, 8, 6, 3), (1, 5, 8, 6, 3)])
def test_arrays_and_tensors_round_as_diffusers_does(shape):
    values = np.random.default_rng(0).uniform(-0.2, 1.2, shape).astype(np.float32)
    values.flat[:3] = (0.5 / 255, 1.5 / 255, 2.5 / 255)
    expected = as_diffusers(values)
    for images in (values, torch.from_numpy(values).movedim(-1, -3)):
        result = UnfinishedResult(images, 7).finish()
        assert (len(result.images), result.steps) == (shape[0], 7)
        assert np.array_equal(np.stack(result.images), expected)
        assert all(one.dtype == np.uint8 and one.flags.c_contiguous for one in result.images)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_tensors_of_half_precision_round_as_if_converted_first(dtype):
    values = torch.rand(1, 3, 16, 16).to(dtype)
    expected = as_diffusers(values.float().movedim(-3, -1).numpy())
    assert np.array_equal(np.stack(UnfinishedResult(values).finish().images), expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_fail(value):
    images = np.zeros((1, 4, 4, 3), np.float32)
    images[0, 1, 1, 1] = value
    for one in (images, torch.from_numpy(images).movedim(-1, -3)):
        with pytest.raises(NotFinite):
            UnfinishedResult(one).finish()


def test_an_output_without_images_is_an_error():
    with pytest.raises(TypeError, match="neither images nor frames"):
        unfinished_result({"masks": 1})


@pytest.mark.parametrize("shape", [(1, 8), (1, 2, 8)])
def test_sound_comes_as_floats_with_its_rate(shape):
    values = torch.linspace(-1.5, 1.5, 8 * shape[-2]).reshape(shape).to(torch.bfloat16)
    for audios in (values, values.float().numpy()):
        result = unfinished_result({"audios": audios}, 7, sample_rate=16).finish()
        assert (result.sound.rate, result.steps, result.images) == (16, 7, [])
        assert result.sound.samples.dtype == np.float32
        assert np.array_equal(result.sound.samples, values.float().numpy().reshape(-1, 8))


def test_sound_without_a_rate_or_with_values_that_are_no_numbers_fails():
    with pytest.raises(TypeError, match="names no sample rate: give it an attribute sample_rate"):
        unfinished_result({"audios": np.zeros((1, 8))})
    with pytest.raises(NotFinite):
        unfinished_result({"audios": np.full((1, 8), np.nan)}, sample_rate=16).finish()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "one",
    [
        QWEN,
        SDXL,
        specimen(wan, "WanPipeline"),
        specimen(stable_diffusion, "StableDiffusionInpaintPipeline"),
        specimen(stable_diffusion, "StableDiffusionPipeline"),
    ],
    ids=lambda one: one.name,
)
def test_tensors_on_the_device_give_the_same_bytes_as_diffusers_arrays(one):
    pipe = build(one)
    assert output_type_of(pipe) == "pt"
    with torch.no_grad():
        images = [
            unfinished_result(pipe(**one.arguments(0) | {"output_type": kind})).finish().images for kind in ("np", "pt")
        ]
    assert [np.array_equal(a, b) for a, b in zip(*images, strict=True)] == [True] * len(images[0])


def test_pipelines_that_convert_in_their_own_way_give_arrays():
    pipe = build(QWEN)

    class Own(VaeImageProcessor):
        """Scales in its own way."""

        def postprocess(self, image, output_type="pil", **_):
            return image * 2

    pipe.image_processor = Own()
    assert output_type_of(pipe) == "np"
    for name in ("IFPipeline",):
        assert output_type_of(build(specimen(pixel, name))) == "np"
    assert output_type_of(object()) == "np"
