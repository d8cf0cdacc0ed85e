"""Arguments without a field of their own: which a signature has, and that requests give them to the pipeline."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from omni_worker.engine.library import generate
from omni_worker.errors import RequestError
from omni_worker.model_card import ServingDefaults
from omni_worker.pipelines.arguments.call_arguments import CallArguments
from omni_worker.pipelines.arguments.extra_arguments import ExtraArguments
from omni_worker.pipelines.interception.stepping import InterceptedPipeline
from omni_worker.requests import GenerationParams
from tests.worker.pipelines.survey import specimen
from tests.worker.pipelines.tiny import build
from tests.worker.pipelines.zoo import flux, stable_diffusion_xl


def call(
    self,
    prompt: str | list[str],
    prompt_2: str | list[str] | None = None,
    scale: float = 0.5,
    steps_ahead: int | None = 3,
    sigmas: list[float] | None = None,
    corner: tuple[int, int] = (0, 0),
    is_clean: bool = True,
    control_image: Image.Image | np.ndarray | torch.Tensor | list[Image.Image] = None,
    source: str | Image.Image | None = None,
    untyped=7,
    latents: torch.Tensor | None = None,
    prompt_embeds: torch.Tensor | None = None,
    attention_kwargs: dict[str, Any] | None = None,
    callback_on_step_end: Callable[[int], None] | None = None,
    num_images_per_prompt: int = 1,
    config_path: str | None = None,
    output_type: str = "pil",
    **more,
):
    raise NotImplementedError


ARGUMENTS = ExtraArguments(call, inspect.signature(call).parameters, {"prompt"})


def test_the_signature_says_what_a_request_can_give():
    assert {name: (argument.kinds, argument.default) for name, argument in ARGUMENTS.arguments.items()} == {
        "prompt_2": (("text",), None),
        "scale": (("number",), 0.5),
        "steps_ahead": (("integer",), 3),
        "sigmas": (("list",), None),
        "corner": (("list",), (0, 0)),
        "is_clean": (("boolean",), True),
        "control_image": (("image",), None),
        "source": (("image",), None),
        "untyped": (("integer",), 7),
    }


def test_values_get_the_types_of_the_pipeline():
    grey = np.full((8, 6, 3), 99, np.uint8)
    params = GenerationParams(
        prompt="p", extra_args={"corner": [1, 2], "sigmas": [1.0]}, extra_images={"control_image": [grey]}
    )
    kwargs = ARGUMENTS.build(params)
    assert (kwargs["corner"], kwargs["sigmas"]) == ((1, 2), [1.0])
    assert kwargs["control_image"].size == (6, 8)
    two = ARGUMENTS.build(GenerationParams(prompt="p", extra_images={"control_image": [grey, grey]}))
    assert len(two["control_image"]) == 2


@pytest.fixture(scope="module")
def flux_pipe():
    return build(specimen(flux, "FluxPipeline"))


@pytest.mark.parametrize(
    ("extra_args", "says"),
    [
        ({"max_sequence_len": 64}, r"no extra argument 'max_sequence_len'; did you mean max_sequence_length\?"),
        ({"colour": "red"}, "no extra argument 'colour'; it has .*prompt_2"),
        ({"num_inference_steps": 3}, "num_inference_steps has a field of its own: send it as num_inference_steps"),
        ({"latents": 3}, "no extra argument 'latents'"),
        ({"max_sequence_length": "long"}, "max_sequence_length takes a value of the kind integer"),
        ({"max_sequence_length": True}, "max_sequence_length takes a value of the kind integer"),
    ],
)
def test_what_a_pipeline_does_not_take_is_rejected_by_name(flux_pipe, extra_args, says):
    arguments = CallArguments(flux_pipe, ServingDefaults())
    with pytest.raises(RequestError, match=says) as raised:
        arguments.build(GenerationParams(prompt="p", extra_args=extra_args))
    assert raised.value.param == "extra_args"


def test_requests_with_different_arguments_get_their_own_images(flux_pipe):
    given = [
        {"prompt_2": "a small boat"},
        {"max_sequence_length": 16},
        {"prompt_2": "a tree", "sigmas": [1.0, 0.4]},
        {},
    ]
    common = {"width": 16, "height": 16}
    with torch.no_grad():
        expected = [
            flux_pipe(
                prompt="a lighthouse", num_inference_steps=2, generator=torch.Generator().manual_seed(3),
                output_type="np", **common, **more,
            ).images[0]
            for more in given
        ]  # fmt: skip
    step_pipeline = InterceptedPipeline(flux_pipe)
    params = [
        GenerationParams(prompt="a lighthouse", steps=2, seed=3, extra_args=extra_args, **common)
        for extra_args in given
    ]
    finished = generate(step_pipeline, params)
    assert [one.error for one in finished] == [None] * len(given)
    for one, image in zip(finished, expected, strict=True):
        assert np.abs(one.result.images[0] - image * 255).max() <= 2
    (alone,) = generate(step_pipeline, params[:1])
    first, without = ((image * 255).round().astype(np.uint8) for image in (expected[0], expected[3]))
    assert np.array_equal(alone.result.images[0], first)
    assert not np.array_equal(first, without), "the argument changes the image"


def test_a_tuple_of_the_pipeline_comes_as_a_list():
    pipe = build(specimen(stable_diffusion_xl, "StableDiffusionXLPipeline"))
    params = GenerationParams(prompt="p", steps=1, width=16, height=16, extra_args={"original_size": [64, 64]})
    assert generate(InterceptedPipeline(pipe), [params])[0].error is None
