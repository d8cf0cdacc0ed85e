"""The size of a result that starts from an image and whose request has none: the image's shape at the model's size."""

import math

from omni_worker.model_card import ModelCard

USUAL_PIXELS = 1024 * 1024
"""Of a model whose own size is not known, at most."""
LARGE_PIXELS, LARGE_MULTIPLE = 512 * 512, 32
"""From so many pixels on, sides are multiples of 32: some pipelines need that and do not say so."""
SHAPE_WEIGHT = 10.0
"""How much worse a wrong shape is than a wrong area."""
MAX_SIDE = 16_384


def size_like(image: tuple[int, int], card: ModelCard, max_pixels: int) -> tuple[int, int]:
    """Width and height with the aspect ratio of an image (width, height), and about the area of its default size.

    The sides are multiples of what the model needs, so the ratio is kept as well as these allow.
    """
    width, height = image
    area = card.width * card.height if card.width and card.height else min(width * height, USUAL_PIXELS)
    area, multiple = min(area, max_pixels), card.size_multiple
    if area >= LARGE_PIXELS:
        multiple *= math.ceil(LARGE_MULTIPLE / multiple)
    ratio = width / height

    def cost(size: tuple[int, int]) -> float:
        pixels = size[0] * size[1]
        wrong_shape, wrong_area = abs(math.log(size[0] / size[1] / ratio)), abs(math.log(pixels / area))
        return (pixels > max_pixels) * 1e6 + SHAPE_WEIGHT * wrong_shape + wrong_area

    def to_side(length: float) -> int:
        return min(max(1, round(length / multiple)), MAX_SIDE // multiple) * multiple

    ideal = math.sqrt(area / ratio)
    heights = {to_side(ideal * factor / 100) for factor in range(50, 201)}
    return min(((to_side(each * ratio), each) for each in sorted(heights)), key=cost)
