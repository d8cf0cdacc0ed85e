"""A model that is larger than the device is rejected before anything is loaded."""

import diffusers
import pytest

from omni_settings.load import LoadSettings
from omni_settings.model_index import parse_model_index
from omni_worker.config import model_source
from omni_worker.errors import LoadError
from omni_worker.pipelines import fit
from omni_worker.pipelines.fit import require_fit, stored_weights
from omni_worker.pipelines.load_arguments import PipelineParts
from omni_worker.pipelines.loading import load

DIGITS = model_source.parse("builtin://digits")


@pytest.fixture
def _small_device(monkeypatch):
    monkeypatch.setattr(fit, "device_memory", lambda: 100_000.0)


@pytest.mark.usefixtures("_small_device")
def test_a_model_that_does_not_fit_is_rejected_before_it_is_loaded(monkeypatch):
    def nothing_is_loaded(*args, **kwargs):
        pytest.fail("it is loaded")

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", nothing_is_loaded)
    with pytest.raises(LoadError, match=r"builtin://digits does not fit: its weights need .* GB.*load.offload"):
        load(DIGITS, None)


@pytest.mark.usefixtures("_small_device")
def test_layers_that_move_fit():
    assert load(DIGITS, None, settings=LoadSettings(offload="group")).pipeline.card.mode == "step"


def test_weights_are_counted_as_they_are_stored():
    pipe = load(DIGITS, None).pipeline._pipe
    index = parse_model_index(diffusers.DiffusionPipeline.load_config(DIGITS.location))
    stored = stored_weights(DIGITS, index.components)
    assert {name: one.values for name, one in stored.items()} == {
        name: sum(parameter.numel() for parameter in getattr(pipe, name).parameters()) for name in stored
    }
    assert set(stored) == {"transformer", "text_encoder", "vae"}


def test_only_what_is_loaded_here_counts(monkeypatch):
    index = parse_model_index(diffusers.DiffusionPipeline.load_config(DIGITS.location))
    sizes = stored_weights(DIGITS, index.components)
    without_encoder = 2.0 * sum(one.values for name, one in sizes.items() if name != "text_encoder")
    monkeypatch.setattr(fit, "device_memory", lambda: without_encoder)
    with pytest.raises(LoadError, match="does not fit"):
        require_fit(DIGITS, index, LoadSettings(), ())
    require_fit(DIGITS, index, LoadSettings(), ["text_encoder"])
    assert load(DIGITS, None, parts=PipelineParts.ALL_BUT_TEXT_ENCODERS).device == "cpu"


def test_on_a_cpu_nothing_is_checked():
    assert fit.device_memory() is None
