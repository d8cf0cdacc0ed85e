"""Frames -> the files that may be downloaded: the video itself, its first frame, and a sheet of frames. Blocks."""

import io
import math
from fractions import Fraction

import av
import numpy as np

from omni_worker.api.images.encoding import encoded
from omni_worker.api.videos.records import File

CODECS = ("libx264", "libopenh264", "mpeg4")  # the first that the build of FFmpeg has
FRAMES_OF_SHEET = 16


def files_of(frames: np.ndarray, fps: float) -> dict[str, File]:
    """The variants of a video of uint8 frames of shape (frames, height, width, channels)."""
    colours = np.repeat(frames, 3, axis=-1) if frames.shape[-1] == 1 else frames[..., :3]
    return {
        "video": File("video/mp4", mp4(colours, fps)),
        "thumbnail": File("image/webp", encoded(colours[0], "webp", 90)),
        "spritesheet": File("image/jpeg", encoded(sheet(colours), "jpeg", 90)),
    }


def mp4(frames: np.ndarray, fps: float) -> bytes:
    """An MP4 file. Its sides are even, as video codecs want them: an odd one is made longer by repeating its edge."""
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
        for frame in even:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return file.getvalue()


def _codec() -> str:
    return next(name for name in CODECS if name in av.codecs_available)


def sheet(frames: np.ndarray) -> np.ndarray:
    """Some frames of the whole video, row by row in one picture; black where there are no more."""
    count = min(len(frames), FRAMES_OF_SHEET)
    chosen = frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    _, height, width, channels = frames.shape
    cells = np.zeros((rows * columns, height, width, channels), np.uint8)
    cells[:count] = chosen
    grid = cells.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return grid.reshape(rows * height, columns * width, channels)
