"""Sound of diffusers itself, and files decoded by PyAV."""

import io
import json
import warnings
from pathlib import Path
from typing import Any

import av
import diffusers
import numpy as np
import torch

from tests.worker.pipelines.survey import specimens

RATE, FULL_SCALE = 16_000, 2**15


def diffusers_sound(model: Path, prompt: str, seed: int, **arguments: Any) -> np.ndarray:
    """The sound of a plain call of the pipeline, of shape (channels, samples)."""
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = diffusers.DiffusionPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    sound = pipe(prompt, generator=torch.Generator().manual_seed(seed), output_type="np", **arguments).audios[0]
    return np.atleast_2d(sound)


def as_16_bits(samples: np.ndarray) -> np.ndarray:
    """The integers of a file of 16 bits a sample, clipped at full scale."""
    return np.clip(np.rint(samples * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(int)


def save_sound(name: str, folder: Path, rate: int = RATE, **defaults: float) -> Path:
    """A tiny pipeline that makes sound, with random weights, in `folder`, with these serving defaults.

    Those of the survey are shorter and fainter. Here, a second has `rate` samples if there is no vocoder, and 8000
    samples are possible.
    """
    (specimen,) = (specimen for specimen in specimens() if specimen.name == name)
    torch.manual_seed(0)
    pipe = specimen.build()
    if "vocoder" in pipe.components:
        for weight in pipe.vocoder.parameters():
            weight.data.mul_(20)
    else:
        pipe.vae.register_to_config(sampling_rate=rate)
    if name == "StableAudioPipeline":
        pipe.transformer.register_to_config(sample_size=1000)  # of eight samples each
    pipe.save_pretrained(folder)
    (folder / "omni.json").write_text(json.dumps({"defaults": defaults}))
    return folder


def likeness(samples: np.ndarray, wanted: np.ndarray) -> float:
    """The largest correlation of two sounds of one channel, however much a codec shifted one of them.

    Without the lowest and the highest frequencies, which codecs leave out.
    """
    one, other = map(_audible, (samples, wanted))
    length = len(one) + len(other)
    correlations = np.fft.irfft(np.fft.rfft(one, length) * np.fft.rfft(other, length).conj(), length)
    return float(correlations.max() / (np.linalg.norm(one) * np.linalg.norm(other)))


def _audible(sound: np.ndarray) -> np.ndarray:
    spectrum = np.fft.rfft(sound)
    spectrum[: len(spectrum) // 40] = spectrum[len(spectrum) // 2 :] = 0
    return np.fft.irfft(spectrum, len(sound))


def decoded(file: bytes, rate: int | None = None) -> tuple[np.ndarray, int]:
    """The samples of a file, floats of shape (channels, samples), resampled to `rate`; and the rate of the file."""
    with av.open(io.BytesIO(file)) as container:
        (stream,) = container.streams.audio
        resampler = av.AudioResampler("fltp", stream.layout, rate or stream.rate)
        frames = [one for frame in container.decode(stream) for one in resampler.resample(frame)]
        return np.concatenate([frame.to_ndarray() for frame in frames], axis=1), stream.rate


def pcm(data: bytes, channels: int) -> np.ndarray:
    """The integers of raw 16-bit samples, of shape (channels, samples)."""
    return np.frombuffer(data, "<i2").reshape(-1, channels).T.astype(int)
