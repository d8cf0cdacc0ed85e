"""How rotary embeddings depend on the length of a text is found by probing, and every text gets its own."""

import pytest
import torch

from omni_worker.language.attention import CurrentLayout, TokenLayout
from omni_worker.language.rotary import LengthDependence, length_dependence, separate_lengths

CONTEXT = 300


class ExampleRotaryEmbedding(torch.nn.Module):
    """Positions, divided by a number that depends on the greatest one."""

    def __init__(self, divisor):
        super().__init__()
        self.divisor = divisor

    def forward(self, x, position_ids):
        angles = position_ids[..., None] / self.divisor(int(position_ids.max()) + 1)
        return angles.cos(), angles.sin()


def step(border):
    return ExampleRotaryEmbedding(lambda length: 2.0 if length > border else 1.0)


def drift(border):
    return ExampleRotaryEmbedding(lambda length: max(1.0, length / border))


@pytest.mark.parametrize("border", [4, 5, 64, 100, CONTEXT - 1])
def test_the_border_is_found(border):
    assert length_dependence(step(border), None, CONTEXT) == LengthDependence(border, True)
    assert length_dependence(drift(border), None, CONTEXT).border == border


def test_embeddings_that_no_length_changes_have_no_border():
    assert length_dependence(step(CONTEXT), None, CONTEXT) is None
    assert separate_lengths(step(CONTEXT), CONTEXT, CurrentLayout()) == ((), CONTEXT)


def test_embeddings_that_change_with_every_length_end_the_context():
    model = torch.nn.Sequential(drift(100), step(64), step(200))
    assert separate_lengths(model, CONTEXT, CurrentLayout()) == ((64,), 100)


def test_every_token_gets_the_embeddings_of_its_own_text():
    module, current = step(10), CurrentLayout()
    assert separate_lengths(module, CONTEXT, current) == ((10,), CONTEXT)
    positions, lengths = [3, 4, 12, 0, 9], (5, 5, 40, 11, 10)
    texts = {length: step(10)(None, torch.arange(length)[None]) for length in lengths}
    for shown in ([0, 1], [2, 3], [0, 1, 2, 3, 4]):
        place = torch.tensor([[positions[i] for i in shown]])
        current.layout = TokenLayout(place[0], place[0], (), 0, tuple(lengths[i] for i in shown))
        for part, values in enumerate(module.forward(torch.zeros(1), place)):
            expected = [texts[lengths[i]][part][0, positions[i]] for i in shown]
            torch.testing.assert_close(values[0], torch.stack(expected))
