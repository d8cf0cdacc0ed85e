"""Tokens are drawn from the right distribution, and by nothing but the seed and the place."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from omni_worker.language.sampling import RandomNumbers, TokenSampling, keep_likeliest, log_probabilities, sample_tokens

SCORES = torch.randn(6, 50, generator=torch.Generator().manual_seed(0)) * 3


@given(st.lists(st.tuples(st.floats(0.05, 1.0), st.integers(0, 60)), min_size=6, max_size=6))
def test_each_row_keeps_the_tokens_that_transformers_keeps(asked):
    choices = [TokenSampling(1.0, top_p, top_k) for top_p, top_k in asked]
    kept = keep_likeliest(SCORES.clone(), choices)
    for row, choice in enumerate(choices):
        expected = SCORES[row : row + 1].clone()
        if choice.top_k:
            expected = TopKLogitsWarper(choice.top_k)(None, expected)
        if choice.top_p < 1.0:
            expected = TopPLogitsWarper(choice.top_p)(None, expected)
        assert torch.equal(kept[row], expected[0])


@pytest.mark.parametrize(
    "choice", [TokenSampling(0.7), TokenSampling(1.3, 0.8), TokenSampling(1.0, 1.0, 5), TokenSampling(0.9, 0.7, 12)]
)
def test_draws_follow_the_distribution(choice):
    scores, numbers, count = SCORES[0], RandomNumbers(3), 20_000
    warped = TemperatureLogitsWarper(choice.temperature)(None, scores[None])
    if choice.top_k:
        warped = TopKLogitsWarper(choice.top_k)(None, warped)
    if choice.top_p < 1.0:
        warped = TopPLogitsWarper(choice.top_p)(None, warped)
    shares = torch.softmax(warped[0], -1)
    choices = [TokenSampling(choice.temperature, choice.top_p, choice.top_k, numbers.at(i)) for i in range(count)]
    drawn = torch.bincount(torch.tensor(sample_tokens(scores.expand(count, -1), choices)), minlength=50) / count
    assert (drawn - shares).abs().max() < 0.015
    assert drawn[shares == 0].sum() == 0


def test_the_least_and_the_greatest_chance_draw_tokens_that_can_be_drawn():
    scores = torch.tensor([[-torch.inf, 1.0, 2.0, -torch.inf]])
    assert sample_tokens(scores, [TokenSampling(1.0, random=0.0)]) == [1]
    assert sample_tokens(scores, [TokenSampling(1.0, random=1.0 - 2**-53)]) == [2]


@given(
    st.floats(0.0, exclude_min=True, allow_infinity=False)
    | st.sampled_from([5e-324, 1e-46, 1e-45, 1e-38, 1e38, 1e308]),
    st.floats(0.0, 1.0, exclude_max=True),
    st.integers(0, 60),
    st.floats(0.0, 1.0, exclude_min=True),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_any_temperature_samples_a_token_that_can_be_sampled(temperature, random, top_k, top_p, dtype):
    scores = (SCORES * 1000).to(dtype)
    scores[:, ::2] = -torch.inf
    sampled = sample_tokens(scores, [TokenSampling(temperature, top_p, top_k, random)] * len(scores))
    assert all(0 <= token < 50 and token % 2 for token in sampled)
    if temperature < 1e-30:
        assert sampled == scores.argmax(-1).tolist()


def test_scores_at_the_ends_of_their_range_sample_a_token():
    greatest = torch.finfo(torch.float32).max
    scores = torch.tensor([[-greatest, greatest, -greatest], [greatest, greatest, -torch.inf]])
    for temperature in (1e-45, 0.5, 1e300):
        first, second = sample_tokens(scores, [TokenSampling(temperature, random=0.4)] * 2)
        assert first == 1 or temperature > 1e38
        assert second == 0


def test_a_row_draws_the_same_among_any_others():
    choices = [
        TokenSampling(0.0),
        TokenSampling(0.8, random=0.3),
        TokenSampling(1.0, 0.5, random=0.9),
        TokenSampling(2.0, 1.0, 3, 0.6),
    ] * 2
    together = sample_tokens(SCORES, choices[:6])
    assert together == [sample_tokens(SCORES[i : i + 1], choices[i : i + 1])[0] for i in range(6)]
    assert together[::-1] == sample_tokens(SCORES.flip(0), choices[:6][::-1])


def test_without_temperature_the_likeliest_is_taken():
    assert sample_tokens(SCORES, [TokenSampling(0.0)] * 6) == SCORES.argmax(-1).tolist()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_scores_that_are_no_numbers_draw_nothing(temperature):
    scores = SCORES[:3].clone()
    scores[1, 7] = torch.nan
    drawn = sample_tokens(scores, [TokenSampling(temperature, random=0.5)] * 3)
    assert drawn[1] == -1
    assert min(drawn[0], drawn[2]) >= 0


@given(st.integers(0, 2**63 - 1), st.integers(0, 5000))
def test_the_chance_of_a_place_needs_none_before_it(seed, place):
    one = RandomNumbers(seed)
    in_turn = [one.at(i) for i in range(place, place + 70)]
    assert RandomNumbers(seed).at(place + 69) == in_turn[-1]
    assert all(0.0 <= number < 1.0 for number in in_turn)
    assert len(set(in_turn)) == 70


def test_seeds_differ():
    assert RandomNumbers(1).at(0) != RandomNumbers(2).at(0)


def test_log_probabilities_are_those_of_the_models_own_scores():
    own, likely, values = log_probabilities(SCORES, [4] * 6, 3)
    logs = torch.log_softmax(SCORES, -1)
    assert torch.equal(own, logs[:, 4])
    assert torch.equal(values, logs.topk(3).values)
    assert torch.equal(likely, logs.topk(3).indices)
