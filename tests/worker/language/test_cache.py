"""Rows of the cache are given, moved and taken away without a trace of one request in another."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omni_worker.language.cache import BLOCK, SlotCache


def write(cache, ids, lengths, values):
    """As a model does: each request's states are its own value at every place."""
    width = max(lengths)
    positions = torch.stack([torch.arange(width).clamp(max=length - 1) for length in lengths])
    order = cache.enter(ids, positions)
    states = torch.tensor([values[i] for i in order], dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 2, width, 4)
    return order, [layer.update(states, -states) for layer in cache.layers]


def read(cache, id):
    cache.enter([id], torch.tensor([[0]]))
    layer = cache.layers[0]
    return layer.keys[cache.window][0, :, :, 0].max().item(), layer.values[cache.window][0, :, :, 0].min().item()


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
        assert cache.reserve(together, length)
        held.update(dict.fromkeys(together, step + 1))
        write(cache, together, [length] * len(together), [step + 1] * len(together))
        for one, value in held.items():
            assert read(cache, one) == (value, -value)
    assert sorted(cache.holders) == sorted(held)


def test_rows_of_one_call_are_a_view():
    cache = SlotCache([False])
    ids = list("abcdef")
    cache.reserve(ids, 10)
    write(cache, ids, [3] * 6, range(1, 7))
    for one in "be":
        cache.release(one)
    order, [(keys, _)] = write(cache, list("fca"), [2, 3, 1], [6, 3, 1])
    assert keys.data_ptr() == cache.layers[0].keys[cache.window].data_ptr()
    assert keys[:, 0, 0, 0].tolist() == [[6, 3, 1][i] for i in order]
    assert read(cache, "d") == (4, -4)


def test_a_row_that_is_given_anew_is_empty():
    cache = SlotCache([False])
    cache.reserve(["a"], 5)
    write(cache, ["a"], [5], [float("nan")])
    cache.release("a")
    cache.reserve(["b"], 5)
    assert read(cache, "b") == (0, 0)


def test_there_is_no_more_than_there_is():
    cache = SlotCache([False])
    cache.max_tokens = 4 * BLOCK
    assert cache.reserve(["a"], 2 * BLOCK)
    assert cache.reserve(["b"], 1)
    assert not cache.reserve(["c"], 1)
    assert not cache.reserve(["b"], 3 * BLOCK)
    assert cache.holders == ["a", "b"]
    cache.release("a")
    assert cache.reserve(["b"], 4 * BLOCK)
    cache.release("b")
    assert cache.reserve(list("abcd"), BLOCK), "rows become shorter again"


@pytest.mark.parametrize("spans", [[1, 70], [70, 1]])
def test_a_call_reads_as_far_as_its_longest(spans):
    cache = SlotCache([False])
    cache.reserve(["a", "b"], 70)
    _, [(keys, values)] = write(cache, ["a", "b"], spans, [1, 2])
    assert keys.shape == values.shape == (2, 2, 70, 4)
