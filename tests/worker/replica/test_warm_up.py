"""The requests with which a replica warms up: with inputs of the size that the model is used at."""

import pytest

from omni_worker.model_card import ModelCard, ServingDefaults
from omni_worker.replica.warm_up import IMAGE_SIDE, warm_up_params


@pytest.mark.parametrize(
    ("card", "size"),
    [
        pytest.param({}, (IMAGE_SIDE, IMAGE_SIDE), id="the model names no size"),
        pytest.param({"width": 64, "height": 32}, (64, 32), id="the pipeline's own"),
        pytest.param(
            {"width": 64, "height": 32, "defaults": ServingDefaults(width=128, height=96)}, (128, 96), id="served with"
        ),
    ],
)
def test_the_input_has_the_size_at_which_the_model_is_used(card, size):
    params = warm_up_params(ModelCard(pipeline="P", mode="step", needs_image=True, mask=True, **card), seed=1)
    (image,) = params.images
    assert (image.shape[1::-1], params.mask.shape[::-1]) == (size, size)


def test_a_model_that_needs_no_image_gets_none():
    assert warm_up_params(ModelCard(pipeline="P", mode="step"), seed=1).images == []
