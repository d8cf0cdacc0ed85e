"""A request that changes its models in the middle of its call changes nothing for the others."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers import FirstBlockCacheConfig, TaylorSeerCacheConfig

from omni_worker.engine.library import generate
from omni_worker.engine.scheduler import RequestStatus
from omni_worker.pipelines.interception.stepping import InterceptedPipeline
from omni_worker.pipelines.protocol import StepState
from tests.worker.pipelines.interception.lora import (
    add_adapter,
    delete_adapter,
    lora_layers,
    scale_adapters,
    set_adapter,
)
from tests.worker.pipelines.survey import specimen
from tests.worker.pipelines.tiny import QWEN, SDXL, build, expected, first_image
from tests.worker.pipelines.zoo import stable_diffusion, stable_diffusion_xl

STABLE_DIFFUSION = specimen(stable_diffusion, "StableDiffusionPipeline")
IMAGE_TO_IMAGE = specimen(stable_diffusion_xl, "StableDiffusionXLImg2ImgPipeline")


def levels(one, other):
    return float(np.abs(first_image(one).astype(np.float64) - other.astype(np.float64)).max()) * 255


def assert_right(pipeline, requests, own, allowed=2.0):
    """Alone, together, together again and alone after that, every request gives its own image."""
    for chosen in ([0], range(len(requests)), range(len(requests)), [1]):
        ended = generate(pipeline, [requests[i]() for i in chosen])
        assert [end.status for end in ended] == [RequestStatus.COMPLETED] * len(ended), ended
        assert max(levels(end.result, own[i]) for i, end in zip(chosen, ended, strict=True)) <= allowed


def test_a_pipeline_that_casts_its_vae_runs_together_in_bfloat16():
    pipe = build(IMAGE_TO_IMAGE).to(torch.bfloat16)
    requests = [lambda i=i: IMAGE_TO_IMAGE.arguments(i) for i in range(3)]
    with torch.no_grad():
        own = [first_image(pipe(**request())) for request in requests]
    pipe = build(IMAGE_TO_IMAGE).to(torch.bfloat16)
    assert_right(InterceptedPipeline(pipe), requests, own, allowed=30.0)
    assert {tensor.dtype for tensor in pipe.vae.parameters()} == {torch.bfloat16}


def test_requests_that_decode_in_float32_share_that_batch_too():
    pipe = build(SDXL).to(torch.float16)
    pipeline, decoded, real = InterceptedPipeline(pipe), [], None
    real = pipeline.batches.run

    def run(calls):
        if calls[0].phase == "decode":
            weights = next(calls[0].target.__self__.parameters()).dtype
            decoded.append((len(calls), {call.leaves[0].value.dtype for call in calls}, weights))
        return real(calls)

    pipeline.batches.run = run
    ended = generate(pipeline, [SDXL.arguments(0) for _ in range(3)])
    assert all(end.status is RequestStatus.COMPLETED for end in ended), ended
    assert decoded == [(3, {torch.float32}, torch.float32)]
    ended = generate(pipeline, [SDXL.arguments(i) | {"num_inference_steps": 2 + i} for i in range(3)])
    assert all(end.status is RequestStatus.COMPLETED for end in ended), ended
    assert decoded[1:] == [(1, {torch.float32}, torch.float32)] * 3
    assert {tensor.dtype for tensor in pipe.vae.parameters()} == {torch.float16}


def with_adapters(*names):
    pipe = build(STABLE_DIFFUSION)
    torch.manual_seed(7)
    for name in names:
        add_adapter(pipe.unet, name, ["to_q", "to_k", "to_v"])
    return pipe


class ScalesItsTextEncoder(diffusers.StableDiffusionPipeline):
    """Scales the adapter of its text encoder for the time of its call, as `encode_prompt` does with peft."""

    def encode_prompt(self, *args, **kwargs):
        scale = kwargs.pop("lora_scale")
        scale_adapters(self.text_encoder, scale)
        prompts = super().encode_prompt(*args, **kwargs)
        scale_adapters(self.text_encoder, 1 / scale)
        return prompts


def scaling():
    pipe = build(STABLE_DIFFUSION)
    torch.manual_seed(7)
    add_adapter(pipe.text_encoder, "a", ["q_proj", "v_proj"])
    return ScalesItsTextEncoder(**pipe.components, requires_safety_checker=False)


def test_the_scale_of_a_text_encoders_adapter_is_the_requests_own():
    scales = [0.25, 1.0, 4.0]
    requests = [
        lambda i=i: STABLE_DIFFUSION.arguments(i) | {"cross_attention_kwargs": {"scale": scales[i]}} for i in range(3)
    ]
    pipe = scaling()
    with torch.no_grad():
        own = [first_image(pipe(**request())) for request in requests]
        other = requests[0]() | {"cross_attention_kwargs": {"scale": 1.0}}
        assert levels(pipe(**other), own[0]) > 2, "the scale matters"
    pipe = scaling()
    assert_right(InterceptedPipeline(pipe), requests, own)
    assert {layer.scaling["a"] for layer in lora_layers(pipe.text_encoder)} == {1.0}


def finish(pipeline, state):
    while not state.is_done:
        pipeline.step_scheduler(state, pipeline.denoise_step([state])[0])


def test_a_request_keeps_the_adapter_that_it_started_with():
    own = {}
    for name in "ab":
        pipe = with_adapters("a", "b")
        set_adapter(pipe.unet, name)
        own[name] = expected(pipe, STABLE_DIFFUSION, 0)
    assert np.abs(own["a"] - own["b"]).max() > 0.01
    pipe = with_adapters("a", "b")
    pipeline = InterceptedPipeline(pipe)
    states = {name: StepState(name, STABLE_DIFFUSION.arguments(0)) for name in "ab"}
    with torch.no_grad():
        for name, state in states.items():
            set_adapter(pipe.unet, name)
            pipeline.prepare_encode(state)
        while waiting := [state for state in states.values() if not state.is_done]:
            together = [state for state in waiting if state.key == waiting[0].key]
            for state, result in zip(together, pipeline.denoise_step(together), strict=True):
                pipeline.step_scheduler(state, result)
    for name, state in states.items():
        assert levels(pipeline.post_decode(state), own[name]) <= 2


def test_a_request_whose_adapters_are_removed_fails_and_is_not_wrong():
    pipe = with_adapters("a", "b")
    pipeline, state = InterceptedPipeline(pipe), StepState("0", STABLE_DIFFUSION.arguments(0))
    with torch.no_grad():
        pipeline.prepare_encode(state)
        delete_adapter(pipe.unet, "b")
        with pytest.raises(RuntimeError, match="adapters"):
            finish(pipeline, state)
    pipeline.close(state)


CACHES = {
    "first block": lambda: FirstBlockCacheConfig(threshold=0.3),
    "Taylor": lambda: TaylorSeerCacheConfig(cache_interval=3),
}


@pytest.mark.parametrize("kind", CACHES)
def test_models_that_keep_state_between_calls_run_one_request_at_a_time(kind):
    def cached():
        pipe = build(QWEN)
        pipe.transformer.enable_cache(CACHES[kind]())
        return pipe

    requests = [lambda i=i: QWEN.arguments(i) | {"num_inference_steps": 6} for i in range(3)]
    with torch.no_grad():
        own = [first_image(cached()(**request())) for request in requests]
    assert_right(InterceptedPipeline(cached()), requests, own, allowed=0.0)


class InInferenceMode(diffusers.QwenImagePipeline):
    @torch.inference_mode()
    def __call__(self, **kwargs):
        return super().__call__(**kwargs)


class WithDevice(diffusers.QwenImagePipeline):
    def __call__(self, **kwargs):
        with torch.device("cpu"), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return super().__call__(**kwargs)


@pytest.mark.parametrize("kind", [InInferenceMode, WithDevice])
def test_a_pipelines_modes_are_its_own(kind):
    def switches():
        return (
            torch.is_inference_mode_enabled(),
            torch.is_grad_enabled(),
            torch._C._len_torch_function_stack(),
            torch.backends.cuda.flash_sdp_enabled(),
            torch.get_default_dtype(),
        )

    pipe = build(QWEN)
    requests = [lambda i=i: QWEN.arguments(i) | {"num_inference_steps": 3 + i} for i in range(3)]
    with torch.no_grad():
        own = [first_image(kind(**pipe.components)(**request())) for request in requests]
        before, seen = switches(), []
        pipeline = InterceptedPipeline(kind(**pipe.components))
        real = pipeline.denoise_step
        pipeline.denoise_step = lambda states: seen.append(switches()) or real(states)
        assert_right(pipeline, requests, own)
    assert set(seen) == {before}


def test_the_engine_leaves_inference_mode_when_such_a_request_is_aborted():
    pipe = build(QWEN)
    pipeline, state = InterceptedPipeline(InInferenceMode(**pipe.components)), StepState("0", QWEN.arguments(0))
    pipeline.prepare_encode(state)
    pipeline.close(state)
    assert not torch.is_inference_mode_enabled()
