"""Quantized components: alone a model gives exactly its own images, and batches stay within a tolerance."""

import diffusers
import gguf
import numpy as np
import pytest
import safetensors.torch
import torch

from omni_settings.load import LoadSettings
from omni_worker.config import model_source
from omni_worker.engine.library import generate
from omni_worker.engine.scheduler import RequestStatus
from omni_worker.errors import LoadError
from omni_worker.pipelines import quantization
from omni_worker.pipelines.loading import load
from omni_worker.requests import GenerationParams

DIGITS = model_source.parse("builtin://digits")
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
ALL = {"transformer", "text_encoder"}
INT8 = {"backend": "torchao", "type": "Int8WeightOnlyConfig"}
QUANTO = {"backend": "quanto", "options": {"weights_dtype": "int8"}}
PARAMS = [
    GenerationParams(prompt=prompt, steps=4, guidance=2.0, seed=i, width=32, height=32)
    for i, prompt in enumerate(["a red three", "a green seven on a white background", "a blue nine", "two"])
]


def settings_of(**quantized):
    return LoadSettings.model_validate({"quantization": quantized})


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    """The transformer of the built-in model, its large matrices in eight bits."""
    file = tmp_path_factory.mktemp("gguf") / "transformer-q8_0.gguf"
    writer = gguf.GGUFWriter(file, "qwen_image")
    for name, tensor in safetensors.torch.load_file(f"{DIGITS.location}/{WEIGHTS}").items():
        values = tensor.float().numpy()
        if values.ndim == 2 and values.shape[1] % 32 == 0:
            q8 = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, q8, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def images(pipeline, requests):
    finished = generate(pipeline, requests)
    assert [one.status for one in finished] == [RequestStatus.COMPLETED] * len(requests), finished
    return [one.result.images[0].astype(int) for one in finished]


def own_image(pipe, params):
    """What diffusers itself makes of a request."""
    with torch.no_grad():
        image = pipe(
            prompt=params.prompt, negative_prompt=" ", true_cfg_scale=params.guidance, width=32, height=32,
            num_inference_steps=params.steps, generator=torch.Generator().manual_seed(params.seed), output_type="np",
        ).images[0]  # fmt: skip
    return np.round(image * 255).astype(int)


@pytest.mark.parametrize("backend", ["torchao", "gguf", "quanto"])
def test_a_quantized_model_gives_its_own_images_and_batches_are_close(backend, gguf_file):
    if backend == "torchao":
        settings = settings_of(transformer=INT8, text_encoder=INT8)
    elif backend == "quanto":
        settings = settings_of(transformer=QUANTO, text_encoder={"backend": "quanto", "options": {"weights": "int8"}})
    else:
        settings = settings_of(transformer={"backend": "gguf", "file": str(gguf_file)})
    pipeline = load(DIGITS, None, settings=settings).pipeline
    pipe = load(DIGITS, None, settings=settings).pipeline._pipe
    expected = [own_image(pipe, params) for params in PARAMS]
    (alone,) = images(pipeline, PARAMS[1:2])
    assert np.array_equal(alone, expected[1])
    before = pipeline.stats()["batched_calls"]
    together = images(pipeline, PARAMS)
    assert max(np.abs(image - own).max() for image, own in zip(together, expected, strict=True)) <= 4
    assert pipeline.stats()["batched_calls"] > before
    (plain,) = images(load(DIGITS, None).pipeline, PARAMS[1:2])
    assert not np.array_equal(plain, alone), "the weights are others than without quantization"


def test_only_the_named_components_are_quantized():
    pipe = load(DIGITS, None, settings=settings_of(transformer=INT8)).pipeline._pipe
    assert type(pipe.transformer.transformer_blocks[0].attn.to_q.weight.data).__name__ == "Int8Tensor"
    assert type(pipe.text_encoder.get_input_embeddings().weight.data) is torch.Tensor


def test_a_missing_library_is_named_before_anything_is_loaded(monkeypatch):
    def nothing_is_loaded(*args, **kwargs):
        pytest.fail("it looks at the model first")

    monkeypatch.setattr(diffusers.DiffusionPipeline, "load_config", nothing_is_loaded)
    monkeypatch.setitem(quantization.LIBRARIES, "bitsandbytes_4bit", ("no_such.library", "bitsandbytes"))
    settings = settings_of(transformer={"backend": "bitsandbytes_4bit"})
    with pytest.raises(
        LoadError, match=r"load.quantization.transformer: .* pip install 'omnipipeline\[bitsandbytes\]'"
    ):
        load(model_source.parse("hf://org/model"), None, settings=settings)


@pytest.mark.parametrize(
    ("quantized", "says"),
    [
        ({"unet": INT8}, "load.quantization: there is no component 'unet'; this pipeline has .*transformer"),
        (
            {"transformer": INT8 | {"type": "Int3Config"}},
            "no configuration 'Int3Config'; choose .*Int8WeightOnlyConfig",
        ),
        ({"transformer": INT8 | {"options": {"groups": 3}}}, "load.quantization.transformer: .*groups"),
        ({"transformer": {"backend": "gguf", "file": "no.gguf"}}, "load.quantization.transformer: no.gguf: "),
        ({"text_encoder": {"backend": "gguf", "file": "no.gguf"}}, "reads no GGUF files for Qwen2_5_VL"),
    ],
)
def test_what_cannot_be_quantized_is_rejected(quantized, says):
    with pytest.raises(LoadError, match=says):
        load(DIGITS, None, settings=settings_of(**quantized))


@pytest.mark.parametrize(
    ("quantized", "says"),
    [
        ({"backend": "torchao"}, "torchao needs type"),
        ({"backend": "gguf"}, "gguf needs file"),
        ({"backend": "quanto", "type": "Int8WeightOnlyConfig"}, "type is for torchao; remove it"),
        ({"backend": "torchao", "type": "Int8WeightOnlyConfig", "file": "a"}, "file is for gguf; remove it"),
    ],
)
def test_each_backend_needs_its_own_keys(quantized, says):
    with pytest.raises(ValueError, match=says):
        settings_of(transformer=quantized)
