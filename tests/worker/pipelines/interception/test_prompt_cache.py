"""Results of text encoders that are kept: a hit changes no bit, and depends on all that the result depends on."""

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from omni_worker.engine.library import generate
from omni_worker.engine.runner.interface import Unfinished
from omni_worker.engine.scheduler import RequestStatus
from omni_worker.pipelines.components import DENOISE, ENCODE
from omni_worker.pipelines.interception.prompt_cache import PromptCache, copy_of
from omni_worker.pipelines.interception.stepping import InterceptedPipeline
from omni_worker.pipelines.request_context import RequestContext
from omni_worker.requests import GenerationParams, LoraChoice
from tests.worker.pipelines.adapters import write_adapter
from tests.worker.pipelines.batching.calls import call, good
from tests.worker.pipelines.survey import specimen
from tests.worker.pipelines.tiny import build
from tests.worker.pipelines.zoo import qwen_image, stable_diffusion

QWEN, STABLE = specimen(qwen_image, "QwenImagePipeline"), specimen(stable_diffusion, "StableDiffusionPipeline")
ROOM = 64 * 1024**2


def encode(tokens, adapters=(), model=None, **kwargs):
    one = call(good, 0, phase=ENCODE, input_ids=torch.tensor([tokens]), **kwargs)
    return type(one)(
        ENCODE, "text_encoder", model or one.target, (), one.kwargs, RequestContext("r", adapters=adapters)
    )


def kept(cache, one, result, is_exact=True):
    cache._add(cache.key_of(one), result, is_exact)


def test_a_result_is_found_by_all_that_it_depends_on():
    cache, result = PromptCache(ROOM), {"last": torch.ones(2, 3), "pooled": (torch.zeros(3), None)}
    kept(cache, encode([1, 2]), result)
    (found,) = cache.find(cache.key_of(encode([1, 2])), True)
    assert torch.equal(found["last"], result["last"])
    assert torch.equal(found["pooled"][0], result["pooled"][0])
    others = (
        encode([1, 3]), encode([1, 2, 3]), encode([1, 2], extra=torch.ones(1)), encode([1, 2], timestep=torch.ones(1)),
        encode([1, 2], (("ink", 1.0),)), encode([1, 2], output_hidden_states=True),
    )  # fmt: skip
    assert [cache.find(cache.key_of(one), False) for one in others] == [()] * len(others)
    assert cache.stats() == {"prompt_hits": 1, "prompt_misses": len(others), "prompt_cache_bytes": 4 * (6 + 3)}


def test_calls_are_not_kept_that_are_no_text_or_depend_on_something_unknown():
    cache = PromptCache(ROOM)
    image = encode([1])
    del image.kwargs["input_ids"]
    changed = encode([1])
    object.__setattr__(changed, "changes", None)
    library = encode([1], None)
    assert [cache.key_of(one) for one in (image, changed, library, encode([1], memory=object()))] == [None] * 4
    assert PromptCache(0).key_of(encode([1])) is None


def test_nobody_writes_into_what_is_kept():
    cache, given = PromptCache(ROOM), torch.ones(2, 3)
    kept(cache, encode([1]), (given,))
    given.fill_(7.0)
    for _ in range(2):
        ((found,),) = cache.find(cache.key_of(encode([1])), True)
        assert found.tolist() == [[1.0] * 3] * 2
        found.fill_(9.0)


def test_the_result_of_a_batch_is_only_for_requests_that_may_be_in_one_and_one_of_its_own_replaces_it():
    cache = PromptCache(ROOM)
    key = cache.key_of(encode([1]))
    cache._add(key, torch.ones(3), is_exact=False)
    assert (cache.find(key, True), len(cache.find(key, False))) == ((), 1)
    cache._add(key, torch.zeros(3), is_exact=True)
    cache._add(key, torch.ones(3), is_exact=False)
    assert cache.find(key, True)[0].tolist() == [0.0] * 3


def test_the_least_recently_used_make_room():
    cache = PromptCache(2 * 12)
    keys = [cache.key_of(encode([i])) for i in range(3)]
    for i in (0, 1):
        cache._add(keys[i], torch.full((3,), float(i)), True)
    cache.find(keys[0], True)
    cache._add(keys[2], torch.ones(3), True)
    cache._add(cache.key_of(encode([9])), torch.ones(7), True)
    assert [len(cache.find(key, True)) for key in keys] == [1, 0, 1]
    assert cache.size == 24


def test_a_tensor_that_is_there_twice_is_copied_once():
    one = torch.ones(3)
    copies = copy_of({"last": one, "all": (torch.zeros(3), one)})
    assert copies["last"] is copies["all"][1]
    assert copies["last"] is not one


def images(pipeline, requests):
    """The requests' images, and how many calls of text encoders were run for them."""
    ran, real = [], pipeline.batches.run
    pipeline.batches.run = lambda calls: ran.extend(one for one in calls if one.phase != DENOISE) or real(calls)
    ended = generate(pipeline, requests)
    pipeline.batches.run = real
    assert all(end.status is RequestStatus.COMPLETED for end in ended), [end.error for end in ended]
    found = [(end.result.finish() if isinstance(end.result, Unfinished) else end.result).images[0] for end in ended]
    return found, sum(one.phase == ENCODE for one in ran)


def request(i, prompt="a red one", **kwargs):
    return GenerationParams(prompt=prompt, steps=2, width=64, height=64, guidance=3.0, seed=i, **kwargs)


def test_a_prompt_that_comes_again_is_not_encoded_again_and_the_image_is_the_same_to_the_bit():
    pipeline, without = (InterceptedPipeline(build(QWEN), prompt_cache_bytes=room) for room in (ROOM, 0))
    assert images(pipeline, [request(0)])[1] == 2
    for one, calls in (
        (request(1), 0),
        (request(2, exact=True), 0),
        (request(3, preview_every=1), 0),
        (request(4, "a blue two"), 1),
        (request(4, "a blue two", negative_prompt="grey"), 1),
    ):
        (image,), ran = images(pipeline, [one])
        assert ran == calls
        assert np.array_equal(image, images(without, [replace(one, preview_every=0)])[0][0])


def test_equal_prompts_that_arrive_together_are_encoded_once():
    pipeline = InterceptedPipeline(build(QWEN), prompt_cache_bytes=ROOM)
    together, ran = images(pipeline, [request(i) for i in range(3)])
    assert ran == 2
    alone = InterceptedPipeline(build(QWEN))
    for i, image in enumerate(together):
        assert np.abs(image.astype(int) - images(alone, [request(i)])[0][0]).max() <= 2


def test_what_was_encoded_in_a_batch_is_not_used_for_a_request_that_is_alone():
    pipeline = InterceptedPipeline(build(QWEN), prompt_cache_bytes=ROOM)
    images(pipeline, [request(i, prompt) for i, prompt in enumerate(("a red one", "a blue two"))])
    (image,), ran = images(pipeline, [request(0, "a red one")])
    assert ran >= 1
    assert np.array_equal(image, images(InterceptedPipeline(build(QWEN)), [request(0, "a red one")])[0][0])


@pytest.fixture
def adapters(tmp_path):
    files = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for seed, file in enumerate(files):
        write_adapter(build(STABLE), file, seed=seed, rank=2, text_encoder=True)
    return files


def test_adapters_of_the_text_encoder_have_results_of_their_own_also_when_loaded_again(adapters):
    pipeline, without = (InterceptedPipeline(build(STABLE), prompt_cache_bytes=room) for room in (ROOM, 0))
    selections = [(), (LoraChoice("x"),), (LoraChoice("x", 0.5),)]
    made = []
    for file in adapters:
        for each in (pipeline, without):
            if "x" in each.adapters.names:
                each.adapters.unload("x")
            each.adapters.load("x", file)
        for loras in selections * 2:
            (image,), _ = images(pipeline, [request(0, loras=loras)])
            assert np.array_equal(image, images(without, [request(0, loras=loras)])[0][0])
            made.append(image)
    assert not np.array_equal(made[1], made[7]), "it is another adapter"
    assert pipeline.stats()["prompt_hits"] > 0
