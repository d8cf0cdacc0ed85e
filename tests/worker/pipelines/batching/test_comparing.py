"""Comparing results up to rounding, and tensors exactly."""

import pytest
import torch

from omni_worker.pipelines.batching.comparing import TOLERANCE, TensorEquality, agree


def test_answers_agree_up_to_rounding_and_no_further():
    answer = torch.randn(2, 8)
    assert agree((answer,), (answer * (1 + 1e-6),))
    assert not agree((answer,), (answer * 1.01,))
    assert not agree((answer,), (torch.full_like(answer, float("nan")),))
    assert not agree(answer, answer[:1])
    assert not agree([answer], (answer,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_wrong_row_of_32_is_found(dtype):
    right = torch.randn(32, 16, 8).to(dtype)
    for row in (0, 17, 31):
        wrong = right.clone()
        wrong[row] = wrong[row] * (1 + 3 * TOLERANCE[dtype])
        assert not agree(right, wrong), "the whole tensor differs by a sixth of that"
        wrong[row] = right[row] * (1 + TOLERANCE[dtype] / 3)
        assert agree(right, wrong)


def test_rounding_of_a_row_of_zeros_is_no_difference():
    one = torch.randn(4, 64)
    one[2] = 0.0
    other = one.clone()
    other[2, 0] = 1e-6
    assert agree(one, other)
    other[2] = one[1]
    assert not agree(one, other)
    assert agree(torch.zeros(2, 3), torch.zeros(2, 3))
    assert agree(torch.zeros(0, 3), torch.zeros(0, 3))


def test_tensors_are_compared_once_and_again_when_they_change():
    same, one, other = TensorEquality(), torch.zeros(3), torch.zeros(3)
    assert same(one, other)
    other += 1
    assert not same(one, other)
