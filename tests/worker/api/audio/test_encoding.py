"""Sound in every format, at the rates that codecs have and at others."""

import numpy as np
import pytest

from omni_worker.api.audio import encoding
from omni_worker.api.audio.encoding import FORMATS, check_format, encode_sound
from omni_worker.errors import RequestError
from omni_worker.requests import Sound

from .sounds import as_16_bits, decoded, likeness, pcm

RATES = {"mp3": (16_000, 44_100, 44_100), "opus": (48_000, 48_000, 48_000), "aac": (16_000, 44_100, 44_100)}
"""Of files of sounds with ORIGINAL rates. Opus decodes to 48 kHz whatever it was encoded at."""
ORIGINAL = (16_000, 44_100, 40_000)


def tones(rate, channels=2, seconds=2.5):
    """A chord per channel, louder than full scale at one place."""
    times = np.arange(int(rate * seconds)) / rate
    chords = [0.3 * np.sin(2 * np.pi * 900 * k * times) + 0.1 * np.sin(2 * np.pi * 1234 * times) for k in (1, 2)]
    samples = np.stack(chords[:channels]).astype(np.float32)
    samples[:, 7] = (1.5, -1.5)[:channels]
    return Sound(samples=samples, rate=rate)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [80, *ORIGINAL])
def test_files_without_loss_hold_every_sample(rate, channels):
    sound = tones(rate, channels)
    wanted = as_16_bits(sound.samples)
    for name in ("wav", "flac"):
        samples, file_rate = decoded(b"".join(encode_sound(sound, name)))
        assert file_rate == rate
        np.testing.assert_allclose(as_16_bits(samples), wanted, atol=1)
    np.testing.assert_allclose(pcm(b"".join(encode_sound(sound, "pcm")), channels), wanted, atol=1)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", RATES)
def test_lossy_files_sound_alike_and_are_resampled_where_the_codec_lacks_a_rate(name, channels):
    for rate, file_rate in zip(ORIGINAL, RATES[name], strict=True):
        sound = tones(rate, channels)
        samples, found = decoded(b"".join(encode_sound(sound, name)), rate)
        assert (found, len(samples)) == (file_rate, channels)
        for one, wanted in zip(samples, sound.samples, strict=True):
            assert likeness(one[: len(wanted)], wanted) > 0.98


def test_files_that_are_final_as_they_are_written_come_in_pieces():
    sound = tones(16_000)
    for name, format in FORMATS.items():
        pieces = list(encode_sound(sound, name))
        assert all(pieces)
        if format.is_streamed:
            assert len(pieces) >= 3, name
    wav = b"".join(encode_sound(sound, "wav"))
    assert int.from_bytes(wav[4:8], "little") == len(wav) - 8, "the header has the length"


def test_a_format_without_an_encoder_is_rejected(monkeypatch):
    monkeypatch.setattr(encoding.av, "codecs_available", {"flac", "pcm_s16le"})
    with pytest.raises(RequestError, match="has no encoder for mp3: ask for one of flac, wav, pcm"):
        check_format("mp3")
    check_format("wav")
