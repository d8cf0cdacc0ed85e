"""Rows of the cache are given, moved and taken away without a trace of one request in another."""

from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omni_worker.language.cache import BLOCK, SlotCache


def write(cache, ids, lengths, values):
    """As a model does: each request's states are its own value at every place."""
    order = cache.set_layout([(id, 0, length) for id, length in zip(ids, lengths, strict=True)])
    told = [float(values[i]) for i in order for _ in range(lengths[i])]
    states = torch.tensor(told).view(1, 1, -1, 1).expand(-1, 2, -1, 4)
    for layer in cache.layers:
        layer.update(states, -states)
    return cache.current.layout


def read(cache, id):
    cache.set_layout([(id, 0, 1)])
    [segment], layer = cache.current.layout.segments, cache.layers[0]
    keys, values = (replace(segment, span=segment.capacity).view(one) for one in (layer.keys, layer.values))
    return keys.max().item(), values.min().item()


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans(), st.integers(1, 150)), max_size=40), st.data())
def test_requests_keep_what_they_wrote(events, data):
    cache, held = SlotCache([False, True]), {}
    for step, (id, leaves, length) in enumerate(events):
        if leaves:
            cache.release(id)
            held.pop(id, None)
            continue
        together = data.draw(st.permutations(sorted({*held, id})))
        together = [id, *(one for one in together if one != id)][: data.draw(st.integers(1, len(together)))]
        lengths = {one: data.draw(st.integers(1, 150)) if one in held else length for one in together}
        assert cache.reserve(lengths)
        held.update(dict.fromkeys(together, step + 1))
        write(cache, together, list(lengths.values()), [step + 1] * len(together))
        for one, value in held.items():
            assert read(cache, one) == (value, -value)
    assert sorted(cache.ids) == sorted(held)


def test_single_tokens_are_of_neighbouring_rows_and_stand_first():
    cache = SlotCache([False])
    ids = list("abcdef")
    cache.reserve(dict.fromkeys(ids, 10))
    write(cache, ids, [3] * 6, range(1, 7))
    for one in "be":
        cache.release(one)
    calls = [("f", 3, 1), ("d", 3, 2), ("c", 3, 1), ("a", 3, 1)]
    order = cache.set_layout(calls)
    singles, more = cache.current.layout.segments
    assert (singles.begin, singles.end, singles.span) == (0, 3, 4)
    assert (more.begin, more.end, more.span) == (3, 5, 5)
    assert singles.view(cache.layers[0].keys)[:, 0, 0, 0].tolist() == [
        {"a": 1, "c": 3, "f": 6}[calls[i][0]] for i in order[:3]
    ]
    assert more.view(cache.layers[0].keys)[0, 0, 0, 0] == 4
    assert cache.current.layout.positions.tolist() == [3, 3, 3, 3, 4]


def test_a_row_that_is_given_anew_is_empty():
    cache = SlotCache([False])
    cache.reserve({"a": 5})
    write(cache, ["a"], [5], [float("nan")])
    cache.release("a")
    cache.reserve({"b": 5})
    assert read(cache, "b") == (0, 0)


def test_there_is_no_more_than_there_is():
    cache = SlotCache([False])
    cache.max_tokens = 4 * BLOCK
    assert cache.reserve({"a": 2 * BLOCK})
    assert cache.reserve({"b": 1})
    assert cache.reserve({"c": 1})
    assert not cache.reserve({"d": 1})
    assert not cache.reserve({"c": BLOCK + 1})
    assert cache.ids == ["a", "b", "c"]
    cache.release("a")
    cache.release("b")
    assert cache.reserve({"c": 4 * BLOCK})
    cache.release("c")
    assert cache.reserve(dict.fromkeys("abcd", BLOCK)), "rows become shorter again"
    assert cache.size == 4 * BLOCK


def test_a_long_request_does_not_lengthen_the_rows_of_others():
    cache = SlotCache([False])
    cache.max_tokens = 64 * BLOCK
    assert cache.reserve({"long": 40 * BLOCK})
    assert cache.reserve({str(i): BLOCK for i in range(24)})
    assert not cache.reserve({"one more": 1})


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 600)), max_size=30))
def test_requests_fit_while_their_lengths_in_blocks_do(events):
    cache, held = SlotCache([False]), {}
    cache.max_tokens = 100 * BLOCK
    for id, length in events:
        wanted = held | {id: max(length, held.get(id, 0))}
        fits = sum(-(-one // BLOCK) for one in wanted.values()) <= 100
        assert cache.reserve({id: length}) == fits
        held = wanted if fits else held
        assert cache.size <= cache.max_tokens


def test_a_cleared_cache_keeps_no_memory():
    cache = SlotCache([False])
    cache.reserve({"a": 1000})
    write(cache, ["a"], [5], [1])
    cache.clear()
    assert (cache.ids, cache.layers[0].keys.shape[2]) == ([], BLOCK)
    assert cache.token_bytes > 0
