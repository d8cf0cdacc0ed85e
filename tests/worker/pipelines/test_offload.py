"""Offload, tiles and attention backends: the same images, and components that move for batches."""

import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

from omni_settings.load import LoadSettings, Vae
from omni_worker.config import model_source
from omni_worker.engine.library import generate
from omni_worker.engine.scheduler import RequestStatus, components
from omni_worker.errors import LoadError
from omni_worker.pipelines.loading import load
from omni_worker.requests import GenerationParams

PARAMS = [
    GenerationParams(prompt=prompt, steps=steps, guidance=2.0, seed=i, width=32, height=32)
    for i, (prompt, steps) in enumerate(
        [("a red three", 2), ("a green seven on a white background", 3), ("a blue nine", 4), ("two", 2)]
    )
]


def images(**settings):
    """The pipeline that was loaded with these settings, and the images of PARAMS, alone and together."""
    pipeline = load(
        model_source.parse("builtin://digits"), None, settings=LoadSettings.model_validate(settings)
    ).pipeline
    found = []
    for requests in ([PARAMS[1]], PARAMS):
        finished = generate(pipeline, requests)
        assert [one.status for one in finished] == [RequestStatus.COMPLETED] * len(requests), finished
        found.append([torch.from_numpy(one.result.images[0]).int() for one in finished])
    return pipeline, *found


@pytest.fixture(autouse=True)
def _default_attention():
    """diffusers also makes a model's backend that of all models of the process."""
    yield
    _AttentionBackendRegistry.set_active_backend(AttentionBackendName.NATIVE)


@pytest.fixture(scope="module")
def plain():
    return images()


@pytest.mark.parametrize(
    "settings",
    [
        {"offload": "model"},
        {"offload": "sequential"},
        {"offload": "group"},
        {"vae": {"slicing": True}},
        {"vae": {"tiling": True}},
        {"attention": "native"},
        {"attention": "_native_flash"},
    ],
    ids=str,
)
def test_images_stay_the_same(plain, settings):
    _, alone, together = images(**settings)
    assert torch.equal(alone[0], plain[1][0])
    for image, expected in zip(together, plain[2], strict=True):
        assert (image - expected).abs().max() <= 2


def test_requests_share_the_moves_of_a_component(monkeypatch):
    monkeypatch.setattr(components, "MAX_WAIT", float("inf"))  # however slow this machine is
    pipeline, *_ = images(offload="model")
    assert pipeline.stats()["component_moves"] <= 6, "three for the request alone, and three for all others together"
    assert "component_moves" not in images()[0].stats()


def test_a_backend_without_masks_batches_prompts_of_equal_length():
    pipeline, *_ = images(attention="_native_flash")
    alike = [GenerationParams(prompt=f"a red {digit}", steps=3, seed=i) for i, digit in enumerate(["two", "six"])]
    before = pipeline.stats()["batched_calls"]
    assert all(one.error is None for one in generate(pipeline, alike))
    assert pipeline.stats()["batched_calls"] > before


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"attention": "flas"}, "load.attention: .*must be one of the following: .*flash_hub"),
        ({"attention": "sage"}, "load.attention: .*sage"),
    ],
)
def test_a_backend_that_cannot_be_used_is_rejected(settings, says):
    with pytest.raises(LoadError, match=says):
        load(model_source.parse("builtin://digits"), None, settings=LoadSettings.model_validate(settings))


def test_a_compiled_model_is_not_offloaded():
    with pytest.raises(ValueError, match="remove compile, or set offload to none"):
        LoadSettings.model_validate({"compile": {}, "offload": "model"})
    assert LoadSettings().vae == Vae()
