"""How much memory weights take, and what to do if a device has less."""

import json

import pytest

from omni_settings.load import LoadSettings
from omni_settings.model_size import MemoryNeed, Weights, header_length, memory_need, weights_of

FLUX = {"transformer": Weights(11.9e9), "text_encoder_2": Weights(4.7e9), "vae": Weights(0.1e9)}


def header(*tensors: tuple[str, int]) -> bytes:
    content, offset = {"__metadata__": {"format": "pt"}}, 0
    for i, (dtype, size) in enumerate(tensors):
        content[str(i)] = {"dtype": dtype, "shape": [size], "data_offsets": [offset, offset + size]}
        offset += size
    return json.dumps(content).encode()


def needed(**settings) -> float:
    need = memory_need(FLUX, LoadSettings.model_validate(settings), "bfloat16")
    return round(need.on_device(settings.get("offload", "none")) / 1e9, 1)


def test_values_are_counted_whatever_their_dtype():
    assert weights_of(header(("F32", 400), ("BF16", 200))) == Weights(200)
    assert weights_of(header(("BF16", 200), ("U8", 50))) == Weights(100, 50)
    assert weights_of(header(("F16", 200)), file_bytes=1000) == Weights(500), "other shards are like the first"


@pytest.mark.parametrize(
    "content", [b"[]", b"{", b'{"a": 1}', b'{"a": {"dtype": "F32"}}', b'{"a": {"data_offsets": [1]}}']
)
def test_a_malformed_header_is_an_error(content):
    with pytest.raises(ValueError, match=r"."):
        weights_of(content)


@pytest.mark.parametrize("start", [b"", b"1234", (1).to_bytes(8, "little"), (1 << 60).to_bytes(8, "little")])
def test_other_files_have_no_header(start):
    with pytest.raises(ValueError, match="not in the safetensors format"):
        header_length(start)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 33.4),
        ({"dtype": "float32"}, 66.8),
        ({"componentDtypes": {"vae": "float32"}}, 33.6),
        ({"offload": "model"}, 23.8),
        ({"offload": "group"}, 0.0),
        ({"quantization": {"transformer": {"backend": "torchao", "type": "Int8WeightOnlyConfig"}}}, 21.5),
        ({"quantization": {"transformer": {"backend": "torchao", "type": "Int4WeightOnlyConfig"}}}, 15.5),
        ({"quantization": {"transformer": {"backend": "bitsandbytes_4bit"}}}, 15.5),
        ({"quantization": {"transformer": {"backend": "modelopt", "options": {"quant_type": "NVFP4"}}}}, 15.5),
        ({"quantization": {"transformer": {"backend": "gguf", "file": "hf://a/b/flux-Q4_0.gguf"}}}, 17.0),
    ],
)
def test_settings_decide_how_much_is_needed(settings, expected):
    assert needed(**settings) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(
    ("settings", "available", "says"),
    [
        ({}, 24e9, "its weights need 33.4 GB, and this device has 24.0 GB: set load.offload: model (--offload"),
        ({}, 12e9, "set load.offload: group (--offload group) or load.quantization (--quantization), or use a larger"),
        ({"offload": "model"}, 12e9, "need 23.8 GB, and this device has 12.0 GB: set load.offload: group"),
        ({}, 34e9, None),
        ({"offload": "group"}, 1e9, None),
    ],
)  # fmt: skip
def test_what_does_not_fit_comes_with_a_remedy(settings, available, says):
    loaded = LoadSettings.model_validate(settings)
    problem = memory_need(FLUX, loaded, "bfloat16").problem(loaded, available)
    assert problem is None if says is None else says in problem


def test_nothing_known_fits():
    assert MemoryNeed({}).problem(LoadSettings(), 0.0) is None
