"""Model cards: strengths that would run no step."""

import msgspec
import numpy as np
import pytest

from omni_worker.errors import RequestError
from omni_worker.model_card import CallArgument, ModelCard, ServingDefaults, fewest_steps
from omni_worker.requests import GenerationParams

PLAIN = {"pipeline": "P", "mode": "step"}
IMAGE = np.zeros((8, 8, 3), np.uint8)


def card(**fields):
    return ModelCard(**PLAIN | {"image": "one", "strength": True} | fields)


@pytest.mark.parametrize(
    ("card", "sent", "param"),
    [
        (card(steps=4), {"strength": 0.1}, "strength"),
        (card(), {"strength": 0.1, "steps": 9}, "strength"),
        (card(steps=50), {"strength": 0.02 - 1e-9}, "strength"),
        (card(steps=50), {"strength": 0.0}, "strength"),
        (card(steps=50), {"strength": 1e-320}, "strength"),
        (card(steps=50, defaults=ServingDefaults(num_inference_steps=2)), {"strength": 0.3}, "strength"),
    ],
)
def test_less_than_one_step_is_refused(card, sent, param):
    with pytest.raises(RequestError, match="less than one step: give more strength") as caught:
        card.check_strength(GenerationParams(prompt="p", images=[IMAGE], **sent))
    assert (caught.value.kind, caught.value.param) == ("invalid", param)


@pytest.mark.parametrize(
    ("card", "sent"),
    [
        (card(steps=4), {"strength": 0.25}),
        (card(steps=4), {"strength": 1.0}),
        (card(default_strength=0.6), {"steps": 1}),
        (card(), {"strength": 0.01}),
        (card(strength=False, steps=4), {"strength": 0.1}),
    ],
)
def test_one_step_is_enough(card, sent):
    card.check_strength(GenerationParams(prompt="p", images=[IMAGE], **sent))


def test_a_request_without_an_image_runs_all_steps():
    card(steps=4).check_strength(GenerationParams(prompt="p", strength=0.1))


def test_the_fewest_steps_run_at_least_one():
    for hundredths in range(1, 101):
        strength = hundredths / 100
        assert int(fewest_steps(strength) * strength) >= 1
        assert int((fewest_steps(strength) - 1) * strength) < 1
    for count in range(1, 200):
        assert int(fewest_steps(1 / count) * (1 / count)) >= 1


@pytest.mark.parametrize("default", [(0, 0), ("a", 1.5, True), "text", 7, None])
def test_a_card_that_was_sent_equals_the_card_and_its_hash(default):
    """The coordinator sends each card once, and finds it by its hash."""
    one = ModelCard(
        pipeline="P", mode="step", arguments=(CallArgument(name="corner", kinds=("list",), default=default),)
    )
    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(one), type=ModelCard)
    assert sent == one
    assert hash(sent) == hash(one)


@pytest.mark.parametrize("default", [[[0]], [{}], {"a": 1}])
def test_a_card_takes_no_default_that_cannot_be_hashed(default):
    sent = msgspec.msgpack.encode(
        {"pipeline": "P", "mode": "step", "arguments": [{"name": "a", "kinds": ["list"], "default": default}]}
    )
    with pytest.raises(msgspec.ValidationError, match=r"arguments\[0\].default"):
        msgspec.msgpack.decode(sent, type=ModelCard)
