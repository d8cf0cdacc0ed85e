"""LoRA adapters of models that are loaded in special ways: quantized, or with their components in host memory."""

import numpy as np
import pytest
import torch

from omni_settings.load import LoadSettings
from omni_worker.config import model_source
from omni_worker.config.lora_source import LoraSource
from omni_worker.engine.library import generate
from omni_worker.errors import LoadError
from omni_worker.pipelines.loading import load
from omni_worker.requests import GenerationParams, LoraChoice
from tests.worker.pipelines.adapters import write_adapter

DIGITS = model_source.parse("builtin://digits")
INT8 = {"backend": "torchao", "type": "Int8WeightOnlyConfig"}
QUANTO = {"backend": "quanto", "options": {"weights_dtype": "int8"}}
MIXED: tuple[tuple[LoraChoice, ...], ...] = ((LoraChoice("a"),), (LoraChoice("b", 0.5),), (), (LoraChoice("b"),))


def loaded(settings, loras=()):
    return load(DIGITS, None, settings=LoadSettings.model_validate(settings), loras=loras).pipeline


def params(i, loras):
    return GenerationParams(prompt=f"a red {i}", steps=3, guidance=2.0, seed=i, width=32, height=32, loras=loras)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    files = [write_adapter(loaded({})._pipe, folder / f"{name}.safetensors", seed=ord(name)) for name in "ab"]
    return tuple(LoraSource(file.stem, str(file)) for file in files)


def images(pipeline, requests):
    ended = generate(pipeline, requests)
    assert [end.error for end in ended] == [None] * len(requests)
    return [end.result.images[0].astype(int) for end in ended]


def of_diffusers(settings, adapters, requests):
    """What diffusers itself makes of each request."""
    pipe = loaded(settings)._pipe
    for lora in adapters:
        pipe.load_lora_weights(lora.source, adapter_name=lora.name)
    found = []
    for request in requests:
        pipe.enable_lora() if request.loras else pipe.disable_lora()
        if request.loras:
            scales = [1.0 if one.scale is None else one.scale for one in request.loras]
            pipe.set_adapters([one.name for one in request.loras], scales)
        with torch.no_grad():
            image = pipe(
                prompt=request.prompt, negative_prompt=" ", true_cfg_scale=request.guidance, width=32, height=32,
                num_inference_steps=3, generator=torch.Generator().manual_seed(request.seed), output_type="np",
            ).images[0]  # fmt: skip
        found.append(np.round(image * 255).astype(int))
    return found


@pytest.mark.parametrize(
    "settings",
    [
        {"quantization": {"transformer": INT8}},
        {"quantization": {"transformer": QUANTO}},
        {"offload": "model"},
        {"offload": "group"},
        {"offload": "sequential"},
    ],
    ids=["torchao", "quanto", "offload model", "offload group", "offload sequential"],
)
def test_requests_with_adapters_share_batches_of_a_model_however_it_is_loaded(settings, adapters):
    pipeline = loaded(settings, adapters)
    assert pipeline.card.takes_loras
    requests = [params(i, loras) for i, loras in enumerate(MIXED)]
    like = settings if "quantization" in settings else {}
    expected = of_diffusers(like, adapters, requests)
    (alone,) = images(pipeline, requests[:1])
    assert np.array_equal(alone, expected[0])
    before = pipeline.stats()["batched_calls"]
    together = images(pipeline, requests)
    assert max(np.abs(image - own).max() for image, own in zip(together, expected, strict=True)) <= 4
    assert pipeline.stats()["batched_calls"] > before
    assert not np.array_equal(expected[0], of_diffusers(like, adapters, [params(0, ())])[0]), "the adapter acts"


def test_a_compiled_model_takes_none_and_says_what_to_do(adapters):
    with pytest.raises(LoadError, match=r"--lora a: .*remove load.compile \(--compile\), or the adapters"):
        loaded({"compile": {"backend": "eager"}}, adapters)
