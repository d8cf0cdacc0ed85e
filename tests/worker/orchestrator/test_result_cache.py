"""Results are kept by what they depend on and by whose they are, and never longer than there is room."""

import asyncio

import numpy as np
import pytest
from msgspec.structs import replace

from omni_worker.orchestrator.result_cache import OVERHEAD_BYTES, ResultCache
from omni_worker.requests import GenerationParams, GenerationRequest, GenerationResult, LoraChoice, Sound
from tests.worker.orchestrator.replica_servers import serving

PARAMS = GenerationParams(prompt="a tree", seed=7, images=[np.zeros((4, 4, 3), np.uint8)], extra_args={"a": 1, "b": 2})
PICTURE = np.zeros((10, 10, 3), np.uint8)
SIZE = PICTURE.nbytes + OVERHEAD_BYTES


def request(owner="alice", outputs=("image",), **changes):
    return GenerationRequest(id="1", params=replace(PARAMS, **changes), outputs=frozenset(outputs), repeatable_by=owner)


def result(value=0):
    return GenerationResult(images=[PICTURE + value])


def key(**changes):
    return ResultCache(1).key_of(request(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"owner": "bob"},
        {"owner": ""},
        {"tenant": "team"},
        {"prompt": "a bush"},
        {"seed": 8},
        {"width": 64},
        {"steps": 4},
        {"guidance": 1.0},
        {"exact": True},
        {"images": [np.ones((4, 4, 3), np.uint8)]},
        {"images": [np.zeros((4, 12, 1), np.uint8)]},
        {"mask": np.zeros((4, 4), np.uint8)},
        {"extra_args": {"a": 1, "b": 3}},
        {"seconds": 2.0},
    ],
    ids=lambda changes: ", ".join(changes),
)
def test_what_changes_a_result_or_its_owner_is_another_entry(changes):
    assert key() == key()
    assert key(**changes) not in (None, key())


@pytest.mark.parametrize(
    "changes",
    [{"priority": 3}, {"deadline_seconds": 2.0}, {"preview_every": 1}, {"extra_args": {"b": 2, "a": 1}}],
    ids=lambda changes: ", ".join(changes),
)
def test_what_does_not_is_the_same_entry(changes):
    assert key(**changes) == key()


@pytest.mark.parametrize(
    "changes",
    [{"owner": None}, {"outputs": ("text",)}, {"outputs": ("text", "image")}, {"loras": (LoraChoice("ink"),)}],
    ids=str,
)
def test_these_requests_are_not_kept(changes):
    assert key(**changes) is None


def test_without_room_nothing_is_kept():
    cache = ResultCache(0)
    assert cache.key_of(request()) is None
    cache.keep(None, result())
    assert (cache.find(None), cache.size, cache.hits, cache.misses) == (None, 0, 0, 0)


def test_the_least_recently_used_results_make_room():
    cache = ResultCache(3 * SIZE)
    keys = [cache.key_of(request(seed=seed)) for seed in range(5)]
    for number in range(3):
        cache.keep(keys[number], result(number))
    assert cache.find(keys[0]).images[0].max() == 0
    cache.keep(keys[3], result(3))
    assert [cache.find(one) is None for one in keys] == [False, True, False, False, True]
    assert (cache.size, cache.hits, cache.misses) == (3 * SIZE, 4, 2)
    cache.keep(keys[3], result(4))
    assert (cache.find(keys[3]).images[0].max(), cache.size) == (4, 3 * SIZE)


def test_one_that_is_larger_than_the_cache_displaces_none():
    cache = ResultCache(2 * SIZE)
    small, large = cache.key_of(request()), cache.key_of(request(seed=8))
    cache.keep(small, result())
    cache.keep(large, GenerationResult(images=[np.zeros((100, 100, 3), np.uint8)]))
    cache.keep(large, GenerationResult(sound=Sound(samples=np.zeros((1, 9000), np.float32), rate=8000)))
    assert (cache.find(small) is not None, cache.find(large), cache.size) == (True, None, SIZE)


def test_a_request_that_comes_again_needs_no_replica():
    async def test():
        async with serving(1) as stage:
            stage.orchestrator.results = ResultCache(2**20)
            asked = GenerationRequest(id="1", params=GenerationParams(prompt="p", steps=3), repeatable_by="")
            first = await stage.orchestrator.generate(asked)
            await stage.servers[0].crash()
            again = await stage.orchestrator.generate(replace(asked, id="2"))
            assert again.images[0].tobytes() == first.images[0].tobytes()
            assert not stage.orchestrator.running

    asyncio.run(test())
