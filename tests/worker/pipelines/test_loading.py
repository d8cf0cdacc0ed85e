"""Which mode a loaded pipeline runs in."""

import pytest
import torch

from omni_settings.load import LoadSettings
from omni_worker.config import model_source
from omni_worker.config.model_source import ModelSource
from omni_worker.engine.library import generate
from omni_worker.engine.scheduler import RequestStatus
from omni_worker.errors import LoadError
from omni_worker.pipelines.interception.stepping import InterceptedPipeline
from omni_worker.pipelines.loading import load, wrap_pipeline
from omni_worker.requests import GenerationParams

from .tiny import QWEN, build

SOURCE = ModelSource("m", "/nowhere", is_local=False)


def test_a_pipeline_without_a_denoiser_is_rejected_in_step_mode_and_runs_in_request_mode_otherwise():
    class Painter:
        """A pipeline with nothing to intercept."""

        def set_progress_bar_config(self, **_):
            pass

        def __call__(self, prompt):
            raise NotImplementedError

    with pytest.raises(LoadError, match="--no-step-execution"):
        wrap_pipeline(Painter(), SOURCE, step_execution=True, concurrent=True)
    assert wrap_pipeline(Painter(), SOURCE, step_execution=None, concurrent=True).card.mode == "request"


def test_pickled_weights_are_not_loaded(tmp_path):
    """A pickle can contain code."""
    build(QWEN).save_pretrained(tmp_path / "model", safe_serialization=False)
    assert list((tmp_path / "model").rglob("*.bin"))
    with pytest.raises(LoadError, match="safetensors"):
        load(model_source.parse(str(tmp_path / "model")), None)
    build(QWEN).save_pretrained(tmp_path / "safe")
    assert load(model_source.parse(str(tmp_path / "safe")), None).pipeline.card.pipeline == "QwenImagePipeline"


def test_components_have_dtypes_of_their_own():
    settings = LoadSettings(dtype="bfloat16", componentDtypes={"vae": "float32"})
    step_pipeline = load(model_source.parse("builtin://digits"), None, settings=settings).pipeline
    request = GenerationParams(prompt="a red three", steps=2)
    assert generate(step_pipeline, [request])[0].status is RequestStatus.COMPLETED
    pipe = step_pipeline._pipe
    dtypes = {name: getattr(pipe, name).dtype for name in ("text_encoder", "transformer", "vae")}
    assert dtypes == {"text_encoder": torch.bfloat16, "transformer": torch.bfloat16, "vae": torch.float32}


def test_a_dtype_of_a_component_that_is_not_there_is_rejected():
    settings = LoadSettings(componentDtypes={"unet": "float32"})
    with pytest.raises(LoadError, match="componentDtypes: there is no component 'unet'; this pipeline has "):
        load(model_source.parse("builtin://digits"), None, settings=settings)


def test_a_pipeline_that_steps_by_itself_is_driven_as_it_is(qwen):
    class Native(InterceptedPipeline):
        """Steps by a protocol of its own."""

    native = Native(qwen)
    assert wrap_pipeline(native, SOURCE, step_execution=None, concurrent=True) is native
    assert generate(native, [QWEN.arguments(0)])[0].status is RequestStatus.COMPLETED


def test_a_pipeline_that_says_it_does_not_step_is_believed():
    pipe = build(QWEN)
    pipe.supports_step_execution = False
    with pytest.raises(LoadError, match=r"says that it does not step.*--no-step-execution"):
        wrap_pipeline(pipe, SOURCE, step_execution=True, concurrent=True)
    assert wrap_pipeline(pipe, SOURCE, step_execution=None, concurrent=True).card.mode == "request"
