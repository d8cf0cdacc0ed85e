"""Images for the tests, and calls that edit them."""

import base64
import io

import numpy as np
from PIL import Image

from tests.worker.serving import client_of

PROMPT = "a red three on black background"


def image_file(image, format="PNG", name="picture"):
    """An image as the client sends it: file name, content, media type."""
    buffer = io.BytesIO()
    image.save(buffer, format)
    return (f"{name}.{format.lower()}", buffer.getvalue(), f"image/{format.lower()}")


def solid_image(colour="blue", side=32, mode="RGB"):
    return Image.new(mode, (side, side), colour)


def half_transparent(side=32):
    """Transparent in its right half."""
    image = solid_image("blue", side, "RGBA")
    image.paste((0, 0, 255, 0), (side // 2, 0, side, side))
    return image


def pixels(b64):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(b64))).convert("RGB")).astype(int)


def edit(port, image, **fields):
    fields["extra_body"] = {"seed": 1, **fields.get("extra_body", {})}
    return client_of(port).images.edit(image=image, prompt=PROMPT, **fields)
