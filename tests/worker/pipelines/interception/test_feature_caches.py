"""diffusers' caches: each request has its own, so that it gives the same bits whatever runs beside it."""

import gc
import weakref

import numpy as np
import pytest
import torch
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
    TextKVCacheConfig,
)
from diffusers.hooks.mag_cache import FLUX_MAG_RATIOS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omni_settings.load import Compile, LoadSettings
from omni_worker.config import model_source
from omni_worker.engine.library import generate
from omni_worker.engine.runner.interface import Unfinished
from omni_worker.engine.scheduler import RequestStatus
from omni_worker.errors import LoadError, RequestError
from omni_worker.pipelines.interception.stepping import InterceptedPipeline
from omni_worker.pipelines.loading import load, wrap_pipeline
from omni_worker.pipelines.protocol import StepState
from omni_worker.requests import CacheSettings, GenerationParams
from tests.worker.pipelines.survey import specimen
from tests.worker.pipelines.tiny import build
from tests.worker.pipelines.zoo import dit_qwen3, flux, qwen_image, stable_diffusion, video_dit, wan
from tests.worker.pipelines.zoo.check import arrays

FLUX, WAN = specimen(flux, "FluxPipeline"), specimen(wan, "WanPipeline")
QWEN, NUCLEUS = specimen(qwen_image, "QwenImagePipeline"), specimen(dit_qwen3, "NucleusMoEImagePipeline")
COG = specimen(video_dit, "CogVideoXPipeline")
RATIOS = (1.0, 1.01, 0.99)
FIRST_BLOCK = CacheSettings(mode="first-block", threshold=0.5)
RANDOM_WEIGHTS = CacheSettings(mode="first-block", threshold=5.0)
"""What of random weights changes little."""
TAYLOR = CacheSettings(mode="taylor-seer", interval=3)
MAG = CacheSettings(mode="mag", threshold=0.9)
FASTER, PYRAMID = CacheSettings(mode="faster"), CacheSettings(mode="pyramid-attention")
STEPS = 8


def own_config(pipe, cache):
    """The same cache, as a user of diffusers sets it."""
    timestep = {"current_timestep_callback": lambda: pipe._current_timestep}
    match cache.mode:
        case "first-block":
            return FirstBlockCacheConfig(cache.threshold)
        case "taylor-seer":
            attention = [r".*blocks\.\d+\.attn\d?"]
            return TaylorSeerCacheConfig(
                cache.interval, taylor_factors_dtype=torch.float32, cache_identifiers=attention
            )
        case "mag":
            ratios = list(cache.ratios) or FLUX_MAG_RATIOS
            return MagCacheConfig(cache.threshold, mag_ratios=ratios, num_inference_steps=STEPS)
        case "faster":
            guided = getattr(pipe, "do_classifier_free_guidance", False)
            return FasterCacheConfig(
                is_guidance_distilled=not guided,
                tensor_format="BFCHW",
                attention_weight_callback=lambda _: 0.5,
                temporal_attention_block_skip_range=2,
                **timestep,
            )
        case "pyramid-attention":
            return PyramidAttentionBroadcastConfig(2, 2, 2, **timestep)
    return TextKVCacheConfig()


def request(one, i):
    return {**one.arguments(i), "num_inference_steps": STEPS}


def by_diffusers(one, i, cache=None):
    pipe = build(one)
    pipe.set_progress_bar_config(disable=True)
    if cache is not None:
        pipe.transformer.enable_cache(own_config(pipe, cache))
    with torch.no_grad():
        return arrays(pipe(**request(one, i)))


def equal(some, others):
    return len(some) == len(others) and all(map(np.array_equal, some, others))


CACHES = {
    "first-block FLUX": (FLUX, RANDOM_WEIGHTS),
    "first-block Wan": (WAN, RANDOM_WEIGHTS),
    "first-block Qwen": (QWEN, RANDOM_WEIGHTS),
    "taylor-seer FLUX": (FLUX, TAYLOR),
    "taylor-seer Wan": (WAN, TAYLOR),
    "mag FLUX": (FLUX, MAG),
    "mag Wan": (WAN, CacheSettings(mode="mag", threshold=0.9, ratios=RATIOS)),
    "faster FLUX": (FLUX, FASTER),
    "faster CogVideoX": (COG, FASTER),
    "pyramid-attention FLUX": (FLUX, PYRAMID),
    "pyramid-attention CogVideoX": (COG, PYRAMID),
}


@pytest.mark.parametrize("kind", CACHES)
def test_a_request_alone_gives_diffusers_own_bits_and_the_same_among_others(kind):
    one, cache = CACHES[kind]
    pipeline = InterceptedPipeline(build(one), cache=cache)
    own = [by_diffusers(one, i, cache) for i in range(2)]
    assert not equal(own[0], by_diffusers(one, 0)), "it approximates"
    for i in range(2):
        assert equal(arrays(generate(pipeline, [request(one, i)])[0].result), own[i])
    together = [arrays(end.result) for end in generate(pipeline, [request(one, i) for i in (0, 1, 0)])]
    assert all(equal(together[place], own[i]) for place, i in enumerate((0, 1, 0)))


def test_the_keys_and_values_of_a_prompt_are_kept_without_changing_the_image():
    pipeline = InterceptedPipeline(build(NUCLEUS), cache=CacheSettings(mode="text-kv"))
    projected = []
    block = pipeline._pipe.transformer.transformer_blocks[-1]
    block.encoder_proj.register_forward_hook(lambda *_: projected.append(1))
    ends = generate(pipeline, [request(NUCLEUS, i) for i in range(2)])
    assert all(equal(arrays(end.result), by_diffusers(NUCLEUS, i)) for i, end in enumerate(ends))
    assert len(projected) == 4, "once for each prompt, positive and negative"


@pytest.mark.parametrize("cache", [PYRAMID, FASTER], ids=lambda cache: cache.mode)
def test_the_branches_of_guidance_do_not_share_a_state(cache):
    """In diffusers, the unconditional call of a step would get the conditional one's attention."""
    calls, pipeline = [], InterceptedPipeline(build(WAN), cache=cache)
    attention = pipeline._pipe.transformer.blocks[0].attn1.to_q
    attention.register_forward_hook(lambda module, args, output: calls.append(1))
    (end,) = generate(pipeline, [request(WAN, 0)])
    assert end.status is RequestStatus.COMPLETED, end.error
    assert STEPS < len(calls) < 2 * STEPS
    assert len(calls) % 2 == 0, "both branches compute in the same steps"


# ---- the built-in model, by its own requests


@pytest.fixture(scope="module")
def digits():
    return load(model_source.parse("builtin://digits"), step_execution=True).pipeline


def digit(i, cache, steps=10, **kwargs):
    word = ("zero", "one", "two", "three", "four", "five", "six")[i % 7]
    return GenerationParams(prompt=f"a red {word} on black background", seed=i, steps=steps, cache=cache, **kwargs)


def finished(end):
    assert end.status is RequestStatus.COMPLETED, end.error
    return (end.result.finish() if isinstance(end.result, Unfinished) else end.result).images[0]


MIXED = [
    None,
    CacheSettings(),
    FIRST_BLOCK,
    CacheSettings(mode="first-block", threshold=0.1),
    TAYLOR,
    PYRAMID,
    FASTER,
    CacheSettings(mode="mag", ratios=RATIOS),
]


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    mix=st.lists(
        st.tuples(st.sampled_from(MIXED), st.integers(3, 10), st.sampled_from([1.0, 3.0]), st.booleans()),
        min_size=2,
        max_size=6,
    )
)
def test_in_any_mix_a_request_gives_what_it_gives_alone(digits, mix):
    requests = [
        digit(i, cache, steps, guidance=guidance, preview_every=2 if preview else 0)
        for i, (cache, steps, guidance, preview) in enumerate(mix)
    ]
    alone = [finished(generate(digits, [one])[0]) for one in requests]
    together = [finished(end) for end in generate(digits, requests)]
    for one, image, own in zip(requests, together, alone, strict=True):
        allowed = 0 if one.cache is not None and one.cache.is_inside_model else 2
        assert np.abs(image.astype(int) - own).max() <= allowed, one.cache


def advance(pipeline, state):
    (prediction,) = pipeline.denoise_step([state])
    pipeline.step_scheduler(state, prediction)


def finish(pipeline, state):
    while not state.is_done:
        advance(pipeline, state)
    return pipeline.post_decode(state).finish().images[0]


def start(pipeline, id, params, steps):
    state = StepState(id, params)
    pipeline.prepare_encode(state)
    while state.step < steps:
        advance(pipeline, state)
    return state


@pytest.mark.parametrize("cache", [CacheSettings(), FIRST_BLOCK, TAYLOR, FASTER], ids=lambda cache: cache.mode)
@torch.no_grad()
def test_a_preempted_request_continues_as_if_nothing_had_happened_and_a_replayed_one_starts_afresh(digits, cache):
    own = finished(generate(digits, [digit(1, cache)])[0])
    waiting = start(digits, "waiting", digit(1, cache), 4)
    for i in range(2):  # these run meanwhile: with its cache, and without any
        finished(generate(digits, [digit(2, cache if i else None)])[0])
    lost = start(digits, "lost", digit(1, cache), 5)
    digits.close(lost)
    replayed = start(digits, "lost", digit(1, cache), 0)
    assert np.array_equal(finish(digits, waiting), own)
    assert np.array_equal(finish(digits, replayed), own)
    for state in (waiting, replayed):
        digits.close(state)
    assert not digits.runs


@pytest.mark.parametrize("end", ["abort", "fail", "finish"])
@pytest.mark.parametrize("cache", [FIRST_BLOCK, TAYLOR, FASTER], ids=lambda cache: cache.mode)
@torch.no_grad()
def test_what_a_request_kept_is_freed_with_it(digits, cache, end):
    other = start(digits, "other", digit(2, FIRST_BLOCK), 3)
    state = start(digits, "0", digit(1, cache), 5)
    run = digits.runs["0"]
    root = run.feature_caches._caches[0]._model()
    kept = [weakref.ref(one) for one in tensors_of(root)]
    blocks = [weakref.ref(block) for block in root.transformer_blocks]
    assert kept
    assert all(reference() is not None for reference in blocks)
    del root, run
    gc.collect()
    gc.disable()
    try:
        if end == "fail":
            digits.step_scheduler(state, (torch.zeros(1, 3, 5),))
            with pytest.raises(RuntimeError, match="must match the size"):  # when guidance adds the other branch
                digits.step_scheduler(state, (torch.zeros(1, 3, 6),))
        elif end == "finish":
            finish(digits, state)
        digits.close(state)
        assert [reference() is not None for reference in (*kept, *blocks)].count(True) == 0
    finally:
        gc.enable()
        digits.close(state)
    assert np.array_equal(finish(digits, other), finished(generate(digits, [digit(2, FIRST_BLOCK)])[0]))
    digits.close(other)


def tensors_of(root):
    """The tensors that the hooks in a model keep."""
    found, seen, queue = (
        [],
        set(),
        [
            hook
            for module in root.modules()
            if "_diffusers_hook" in vars(module)
            for hook in module._diffusers_hook.hooks.values()
        ],
    )
    while queue:
        value = queue.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, dict):
            queue += value.values()
        elif isinstance(value, list | tuple):
            queue += value
        elif "State" in type(value).__name__ or "Hook" in type(value).__name__:
            queue += [one for name, one in vars(value).items() if name not in ("fn_ref", "config")]
    return found


def test_the_shared_model_has_no_hooks_while_requests_with_a_cache_run(digits):
    with torch.no_grad():
        state = start(digits, "0", digit(1, FIRST_BLOCK), 2)
        assert not any(getattr(module, "_diffusers_hook", None) for module in digits._pipe.transformer.modules())
        assert not digits._pipe.transformer.is_cache_enabled
        digits.close(state)


UNUSABLE = {
    "a model without them": (
        specimen(stable_diffusion, "StableDiffusionPipeline"), "first-block", "none of its models (unet) has"
    ),
    "unknown magnitudes": (QWEN, "mag", "set cache.ratios"),
    "nothing to cache": (FLUX, "text-kv", "it finds nothing to cache in FluxTransformer2DModel"),
    "two transformers": (specimen(wan, "WanPipeline-two"), "mag", "transformer, transformer_2"),
}  # fmt: skip


@pytest.mark.parametrize("row", UNUSABLE)
def test_a_cache_that_does_not_fit_the_model_is_refused_for_a_stage_and_for_a_request(row):
    one, mode, reason = UNUSABLE[row]
    cache = CacheSettings(mode=mode)
    source = model_source.parse("builtin://digits")
    with pytest.raises(LoadError) as refused:
        wrap_pipeline(build(one), source, True, True, cache=cache)
    assert reason in str(refused.value)
    assert f"cache: {mode} cannot be used with this model" in str(refused.value)
    pipeline = InterceptedPipeline(build(one))
    (end,) = generate(pipeline, [GenerationParams(prompt="a red one", steps=2, cache=cache)])
    assert isinstance(end.error, RequestError)
    assert (end.error.kind, end.error.param) == ("invalid", "cache")
    assert reason in str(end.error)
    assert not pipeline.runs


def test_blocks_that_diffusers_does_not_know_are_refused():
    pipe = build(FLUX)
    pipe.transformer.transformer_blocks = pipe.transformer.transformer_blocks[:1]
    pipe.transformer.single_transformer_blocks = torch.nn.ModuleList()
    with pytest.raises(RequestError, match="it does not know the blocks of FluxTransformer2DModel"):
        InterceptedPipeline(pipe, cache=FIRST_BLOCK)


def test_a_compiled_stage_refuses_them_and_says_what_to_do():
    source = model_source.parse("builtin://digits")
    with pytest.raises(LoadError, match="leave out compile of --load"):
        load(source, True, settings=LoadSettings(compile=Compile()), cache=FIRST_BLOCK)
