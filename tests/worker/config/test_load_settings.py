"""How a model is loaded: what --load and the single flags say, and what is refused."""

import json

import pytest

from omni_settings.load import Compile, LoadSettings
from omni_worker.config.records import ReplicaConfig
from omni_worker.errors import UsageError

from .command_lines import parse

FILE = """
dtype: bfloat16
componentDtypes: {vae: float32, text_encoder: float16}
compile: {}
"""


def test_without_a_flag_everything_is_left_open():
    assert parse().engine.load == LoadSettings()


@pytest.mark.parametrize("as_text", [False, True], ids=["a file", "in the flag"])
def test_single_flags_override_the_file(as_text, tmp_path):
    file = tmp_path / "load.yaml"
    file.write_text(FILE)
    argument = (
        json.dumps(
            {"dtype": "bfloat16", "componentDtypes": {"vae": "float32", "text_encoder": "float16"}, "compile": {}}
        )
        if as_text
        else str(file)
    )
    load = parse("--load", argument).engine.load
    assert load == LoadSettings.model_validate(
        {"dtype": "bfloat16", "componentDtypes": {"vae": "float32", "text_encoder": "float16"}, "compile": {}}
    )
    flags = ["--dtype", "float32", "--dtype", "vae=float16", "--compile", "eager"]
    load = parse("--load", argument, *flags).engine.load
    assert load.dtype == "float32"
    assert load.component_dtypes == {"vae": "float16", "text_encoder": "float16"}
    assert load.compile == Compile(backend="eager")


def test_settings_of_memory_have_flags():
    load = parse("--load", "{vae: {slicing: true}}", "--vae-tiling", "--offload=group", "--attention=sage").engine.load
    assert (load.vae.tiling, load.vae.slicing, load.offload, load.attention) == (True, True, "group", "sage")
    assert not parse("--load", "{vae: {slicing: true}}", "--no-vae-slicing").engine.load.vae.slicing


def test_quantization_has_a_flag_for_each_component():
    load = parse(
        "--load", "{quantization: {vae: {backend: quanto}, transformer: {backend: quanto}}}",
        "--quantization", "transformer=torchao:Int8WeightOnlyConfig", "--quantization", "unet=gguf:hf://a/b/c.gguf",
    ).engine.load  # fmt: skip
    assert {name: (one.backend, one.type, one.file) for name, one in load.quantization.items()} == {
        "vae": ("quanto", None, None),
        "transformer": ("torchao", "Int8WeightOnlyConfig", None),
        "unet": ("gguf", None, "hf://a/b/c.gguf"),
    }


def test_code_has_flags():
    load = parse("--custom-pipeline=pipeline.py", "--trust-remote-code").engine.load
    assert (load.custom_pipeline, load.trust_remote_code) == ("pipeline.py", True)


def test_a_replica_gets_them():
    config = parse("--dtype", "vae=float16", "--compile").replica(0)
    assert ReplicaConfig.decode(config.encode()) == config


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        pytest.param(["--load", "/nowhere.yaml"], "--load /nowhere.yaml: No such file", id="no file"),
        pytest.param(["--load", "{dtype: ["], "--load: not YAML", id="no YAML"),
        pytest.param(
            ["--load", "{dtyp: auto}"], r"--load: dtyp: is not a known key; did you mean dtype\?", id="a typo"
        ),
        pytest.param(["--load", "{dtype: int3}"], "--load: dtype: input should be 'auto', 'float32'", id="a value"),
        pytest.param(
            ["--load", "{componentDtypes: {vae: 1}}"],
            "--load: componentDtypes.vae: input should be",
            id="of a component",
        ),
        pytest.param(["--dtype", "int3"], "--dtype int3: give one of auto, float32", id="a dtype"),
        pytest.param(["--dtype", "=float32"], "--dtype =float32: give one of", id="no component"),
        pytest.param(["--quantization", "vae=int8"], "give COMPONENT=BACKEND, with one of .*quanto", id="no backend"),
        pytest.param(["--quantization", "vae=torchao"], "quantization.vae: torchao needs type", id="no type"),
        pytest.param(["--custom-pipeline=a.py"], "--load: customPipeline is Python code", id="code without trust"),
        pytest.param(["--compile", "--offload=model"], "--load: a compiled model stays on the device", id="compiled"),
        pytest.param(["--compile", "--lora", "a=/a"], r"remove load.compile \(--compile\)", id="compiled adapters"),
    ],
)
def test_what_cannot_be_is_refused(flags, says):
    with pytest.raises(UsageError, match=says):
        parse(*flags)


@pytest.mark.parametrize(
    ("flags", "environment", "folder"),
    [
        ([], {"HF_HOME": "/cache"}, None),
        (["--compile"], {"HF_HOME": "/cache"}, "/cache/omni-compile"),
        (["--compile"], {"XDG_CACHE_HOME": "/x"}, "/x/huggingface/omni-compile"),
        (["--compile"], {"HOME": "/home/me"}, "/home/me/.cache/huggingface/omni-compile"),
        (["--compile"], {"HF_HOME": "/cache", "TORCHINDUCTOR_CACHE_DIR": "/own"}, None),
        (["--compile", "--load", '{"compile": {"cache": false}}'], {"HF_HOME": "/cache"}, None),
    ],
    ids=["not compiled", "HF_HOME", "XDG", "HOME", "a folder of the user's", "cache: false"],
)
def test_compiled_code_is_kept_next_to_the_models_from_the_hub(flags, environment, folder, monkeypatch):
    for name in ("HF_HOME", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    config = parse(*flags).replica(0)
    assert ReplicaConfig.decode(config.encode()).engine.compile_cache == folder
