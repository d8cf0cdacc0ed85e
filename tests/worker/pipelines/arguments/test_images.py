"""Which images and videos pipelines take, as their cards say, and the arguments made from them."""

import inspect

import diffusers
import numpy as np
import pytest

from omni_worker.errors import RequestError
from omni_worker.model_card import ServingDefaults
from omni_worker.pipelines.arguments import images
from omni_worker.pipelines.arguments.call_arguments import CallArguments
from omni_worker.requests import GenerationParams
from tests.worker.pipelines.survey import specimens

GREY = np.full((32, 32, 3), 128, np.uint8)


def card(name, **defaults):
    (specimen,) = (one for one in specimens() if one.name == name)
    pipe = specimen.build()
    return CallArguments(pipe, ServingDefaults(**defaults)).card(pipe, "step")


@pytest.mark.parametrize(
    ("name", "image", "needs_image", "mask", "strength"),
    [
        pytest.param("QwenImagePipeline", "none", False, False, False, id="text to image"),
        pytest.param("StableDiffusionImg2ImgPipeline", "one", True, False, True, id="image to image"),
        pytest.param("StableDiffusionInpaintPipeline", "one", True, True, True, id="inpainting"),
        pytest.param("FluxKontextPipeline", "one", False, False, False, id="an editor that can do without"),
        pytest.param("Flux2Pipeline", "several", False, False, False, id="references"),
        pytest.param("QwenImageEditPlusPipeline", "several", True, False, False, id="an editor of several"),
        pytest.param("StableDiffusionControlNetPipeline", "one", True, False, False, id="an outline to follow"),
        pytest.param("WanImageToVideoPipeline", "one", True, False, False, id="image to video"),
    ],
)
def test_a_card_says_which_images_a_pipeline_takes(name, image, needs_image, mask, strength):
    pipeline_class = getattr(diffusers, name)
    found = images.accepted_media(
        pipeline_class.__new__(pipeline_class), inspect.signature(pipeline_class.__call__).parameters
    )
    described = (found.get("image", "none"), *(found.get(what, False) for what in ("needs_image", "mask", "strength")))
    assert described == (image, needs_image, mask, strength)


def test_a_card_says_how_long_videos_are():
    wan = card("WanPipeline")
    assert (wan.video, wan.frames, wan.fps, wan.frame_multiple, wan.steps) == (True, 81, 16.0, 4, 50)
    wan = card("WanPipeline", num_frames=5, fps=8.0, num_inference_steps=3)
    assert (wan.frames, wan.fps, wan.steps) == (5, 8.0, 3)
    assert card("LTXPipeline").fps == 25.0
    assert not card("StableDiffusionPipeline").video


def arguments(name, **params):
    (specimen,) = (one for one in specimens() if one.name == name)
    return CallArguments(specimen.build(), ServingDefaults()).build(GenerationParams(prompt="a cat", **params))


def test_images_are_passed_by_the_names_that_a_pipeline_has_for_them():
    mask = np.full((32, 32), 255, np.uint8)
    given = arguments("StableDiffusionInpaintPipeline", images=[GREY], mask=mask, strength=0.5)
    assert (given["image"].size, given["mask_image"].mode, given["strength"]) == ((32, 32), "L", 0.5)
    assert len(arguments("Flux2Pipeline", images=[GREY, GREY])["image"]) == 2
    assert arguments("WanPipeline", frames=9, fps=30.0)["num_frames"] == 9
    assert arguments("LTXPipeline", frames=9, fps=30.0)["frame_rate"] == 30.0


def test_a_pipeline_that_takes_no_image_rejects_one():
    with pytest.raises(RequestError, match="takes no image"):
        arguments("StableDiffusionPipeline", images=[GREY])


@pytest.mark.parametrize(("strength", "steps"), [(1.0, 1), (0.9, 2), (0.3, 4), (0.07, 15)])
def test_at_least_one_of_the_fewest_steps_runs(strength, steps):
    parameters = inspect.signature(diffusers.StableDiffusionImg2ImgPipeline.__call__).parameters
    assert images.fewest_steps(strength, parameters) == steps
    assert int(steps * strength) >= 1
    assert images.fewest_steps(strength, inspect.signature(diffusers.WanPipeline.__call__).parameters) == 1


def test_less_than_one_step_is_refused_before_the_pipeline_runs():
    (one,) = (one for one in specimens() if one.name == "StableDiffusionImg2ImgPipeline")
    arguments = CallArguments(one.build(), ServingDefaults(num_inference_steps=4))
    for sent in ({"strength": 0.1}, {"strength": 0.5, "steps": 1}):
        with pytest.raises(RequestError, match="less than one step") as caught:
            arguments.build(GenerationParams(prompt="p", images=[GREY], **sent))
        assert caught.value.kind == "invalid"
    assert arguments.build(GenerationParams(prompt="p", images=[GREY], strength=0.25))["strength"] == 0.25


@pytest.mark.parametrize(
    ("name", "size"),
    [
        pytest.param("WanPipeline", (832, 480), id="in the signature"),
        pytest.param("StableDiffusionControlNetPipeline", None, id="from the size of the latents"),
    ],
)
def test_a_card_says_how_large_results_are_by_default(name, size):
    found = card(name)
    assert (found.width, found.height) == (size or (found.width, found.width))
    assert found.width
    other = card(name, width=64, height=32)
    assert (other.width, other.height) == (64, 32)
