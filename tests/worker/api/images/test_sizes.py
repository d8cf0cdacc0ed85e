"""The size of a result without a size of its own: the shape of its image, about as large as the model's own size."""

import math

import pytest

from omni_worker.api.images.sizes import size_like
from omni_worker.model_card import ModelCard

SHAPES = [(64, 32), (32, 64), (48, 32), (32, 32), (1920, 1080), (1080, 1920), (4000, 3000), (100, 300), (640, 427)]


def card(width=None, height=None, multiple=8):
    return ModelCard(pipeline="P", mode="step", sized=True, width=width, height=height, size_multiple=multiple)


@pytest.mark.parametrize("image", SHAPES)
@pytest.mark.parametrize("own", [(32, 32, 8), (512, 512, 8), (1024, 1024, 16), (832, 480, 8), (None, None, 8)])
def test_the_shape_is_kept_and_the_area_is_the_models(image, own):
    width, height = size_like(image, card(*own), 4096 * 4096)
    ratio = image[0] / image[1]
    tolerance = 0.25 if own[0] == 32 else 0.03
    assert abs(math.log(width / height / ratio)) < tolerance
    assert width % own[2] == height % own[2] == 0
    if own[0]:
        assert 0.4 < width * height / (own[0] * own[1]) < 2.5


@pytest.mark.parametrize("own", [(512, 512, 8), (1024, 1024, 16)])
def test_an_image_of_the_models_own_shape_gives_its_own_size(own):
    assert size_like((300, 300), card(*own), 4096 * 4096) == own[:2]


def test_sides_of_large_models_are_multiples_of_32():
    for image in SHAPES:
        assert all(side % 32 == 0 for side in size_like(image, card(1024, 1024, 8), 4096 * 4096))


def test_the_limit_of_pixels_is_kept():
    for image in SHAPES:
        width, height = size_like(image, card(1024, 1024), 300 * 300)
        assert width * height <= 300 * 300


@pytest.mark.parametrize("image", [(1, 5000), (5000, 1), (1, 1), (16_384, 2)])
def test_extreme_shapes_have_a_size_too(image):
    width, height = size_like(image, card(1024, 1024), 4096 * 4096)
    assert 8 <= width <= 16_384
    assert 8 <= height <= 16_384
