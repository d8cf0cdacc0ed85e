"""Frames to files: the video, its first frame as a thumbnail, and a sheet of frames. Blocks: call it in a thread."""

import io
import math
from fractions import Fraction

import av
import numpy as np

from omni_worker.api.images.encoding import encode_image
from omni_worker.api.videos.records import VideoFile

CODECS = ("libx264", "libopenh264", "mpeg4")
"""In order of preference; not every build of FFmpeg has all of them."""
SPRITESHEET_FRAMES = 16


def encode_variants(frames: np.ndarray, fps: float) -> dict[str, VideoFile]:
    """The files of a video by variant, from uint8 frames of shape (frames, height, width, channels)."""
    rgb = np.repeat(frames, 3, axis=-1) if frames.shape[-1] == 1 else frames[..., :3]
    return {
        "video": VideoFile("video/mp4", encode_mp4(rgb, fps)),
        "thumbnail": VideoFile("image/webp", encode_image(rgb[0], "webp", 90)),
        "spritesheet": VideoFile("image/jpeg", encode_image(spritesheet(rgb), "jpeg", 90)),
    }


def encode_mp4(frames: np.ndarray, fps: float) -> bytes:
    """An MP4 file. Video codecs need even sides: an odd one is made one pixel longer by repeating its edge."""
    _, height, width, _ = frames.shape
    even = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(_codec(), rate=Fraction(fps).limit_denominator(1001))
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = even.shape[1:3]
        stream.pix_fmt = "yuv420p"
        if stream.codec_context.name == "libx264":
            stream.options = {"crf": "18", "preset": "veryfast"}
        for array in even:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def _codec() -> str:
    return next(name for name in CODECS if name in av.codecs_available)


def spritesheet(frames: np.ndarray) -> np.ndarray:
    """One image of up to SPRITESHEET_FRAMES frames, evenly spread over the video, row by row. Empty cells are black."""
    count = min(len(frames), SPRITESHEET_FRAMES)
    selected = frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    _, height, width, channels = frames.shape
    cells = np.zeros((rows * columns, height, width, channels), np.uint8)
    cells[:count] = selected
    grid = cells.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width, channels)
