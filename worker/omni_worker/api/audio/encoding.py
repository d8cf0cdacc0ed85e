"""Sound to files, piece by piece. Blocks: iterate in a thread."""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from omni_worker.errors import RequestError
from omni_worker.requests import Sound

FRAME_SECONDS = 1.0
"""How much of a sound is encoded at a time."""
PIECE_BYTES = 64 * 1024
"""Of a file that is complete before it is sent."""
LAYOUTS = {1: "mono", 2: "stereo"}


@dataclass(frozen=True)
class AudioFormat:
    """A format of sound files.

    media_type: of the file, for `Content-Type`
    container, codecs: as FFmpeg names them; the codecs in order of preference, as not every build has all of them
    bit_rate: bits a second and channel, of lossy formats
    is_streamed: whether a piece is final once it is written; other files have a header that is written last
    """

    media_type: str
    container: str
    codecs: tuple[str, ...]
    bit_rate: int | None = None
    is_streamed: bool = True

    @property
    def codec(self) -> str | None:
        """The first of its codecs that this build of FFmpeg has."""
        return next((name for name in self.codecs if name in av.codecs_available), None)


FORMATS = {
    "mp3": AudioFormat("audio/mpeg", "mp3", ("libmp3lame",), 128_000, is_streamed=False),
    "opus": AudioFormat("audio/ogg", "ogg", ("libopus",), 96_000),
    "aac": AudioFormat("audio/aac", "adts", ("aac",), 128_000),
    "flac": AudioFormat("audio/flac", "flac", ("flac",), is_streamed=False),
    "wav": AudioFormat("audio/wav", "wav", ("pcm_s16le",), is_streamed=False),
    "pcm": AudioFormat("audio/pcm", "s16le", ("pcm_s16le",)),
}
"""By `response_format`. All but the lossy ones have 16 bits a sample."""


def check_format(name: str) -> None:
    """Raises RequestError if this build of FFmpeg cannot write the format."""
    if FORMATS[name].codec is None:
        others = ", ".join(other for other, format in FORMATS.items() if format.codec is not None)
        message = f"response_format: this server's FFmpeg has no encoder for {name}: ask for one of {others}"
        raise RequestError("invalid", message, "response_format")


def encode_sound(sound: Sound, name: str) -> Iterator[bytes]:
    """The pieces of a file in the format `name` of FORMATS, for which `check_format` was called.

    Where the codec has no such sample rate, the sound is resampled to the next higher one.
    """
    format = FORMATS[name]
    assert format.codec is not None
    file = _Pieces() if format.is_streamed else io.BytesIO()
    channels = len(sound.samples)
    with av.open(file, "w", format=format.container) as container:
        stream = container.add_stream(format.codec, rate=_codec_rate(format.codec, sound.rate))
        assert isinstance(stream, av.AudioStream)
        stream.layout = LAYOUTS[channels]
        if format.bit_rate is not None:
            stream.bit_rate = format.bit_rate * channels
        for frame in _frames(sound):
            container.mux(stream.encode(frame))
            if isinstance(file, _Pieces):
                yield from file.take()
        container.mux(stream.encode())
    if isinstance(file, _Pieces):
        yield from file.take()
    else:
        yield from _slices(file.getbuffer())


def _codec_rate(codec: str, rate: int) -> int:
    """The sample rate of the file: the sound's, or the next higher one that the codec has, or else its highest."""
    rates = av.Codec(codec, "w").audio_rates
    return min((one for one in rates if one >= rate), default=max(rates)) if rates else rate


def _frames(sound: Sound) -> Iterator[av.AudioFrame]:
    samples = np.ascontiguousarray(sound.samples, np.float32)
    length = max(1, math.ceil(FRAME_SECONDS * sound.rate))
    for start in range(0, samples.shape[1], length):
        part = np.ascontiguousarray(samples[:, start : start + length])
        frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=LAYOUTS[len(samples)])
        frame.sample_rate = sound.rate
        frame.pts, frame.time_base = start, Fraction(1, sound.rate)
        yield frame


def _slices(file: memoryview) -> Iterator[bytes]:
    for start in range(0, len(file), PIECE_BYTES):
        yield bytes(file[start : start + PIECE_BYTES])


class _Pieces:
    """A file that is only written to, from its start to its end. What was written is taken away."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, data: bytes) -> int:
        """Called by PyAV."""
        self._written.append(bytes(data))
        return len(data)

    def take(self) -> Iterator[bytes]:
        """What was written since the last call; nothing if nothing was."""
        written, self._written = b"".join(self._written), []
        if written:
            yield written
