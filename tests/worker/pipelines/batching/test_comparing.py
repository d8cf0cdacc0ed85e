"""Comparing results up to rounding, and tensors exactly."""

import torch

from omni_worker.pipelines.batching.comparing import TensorEquality, agree


def test_answers_agree_up_to_rounding_and_no_further():
    answer = torch.randn(2, 8)
    assert agree((answer,), (answer * (1 + 1e-6),))
    assert not agree((answer,), (answer * 1.01,))
    assert not agree((answer,), (torch.full_like(answer, float("nan")),))
    assert not agree(answer, answer[:1])
    assert not agree([answer], (answer,))


def test_tensors_are_compared_once_and_again_when_they_change():
    same, one, other = TensorEquality(), torch.zeros(3), torch.zeros(3)
    assert same(one, other)
    other += 1
    assert not same(one, other)
