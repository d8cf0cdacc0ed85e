"""Merging calls, and splitting the results."""

import pytest
import torch

from omni_worker.pipelines.batching.batches import ProvenBatches
from tests.worker.pipelines.batching.calls import Denoiser, assert_right, call, good


@pytest.mark.parametrize("rows", [2, 3])
def test_scalar_timesteps_of_doubled_batches_are_spread_over_the_rows(rows):
    assert_right(ProvenBatches(), [call(Denoiser(good), i, rows=rows) for i in range(3)], share=True)


def per_row(extra):
    return torch.stack([item if isinstance(item, torch.Tensor) else torch.tensor(float(item)) for item in extra])


@pytest.mark.parametrize(
    ("answer", "arguments"),
    [
        pytest.param(
            lambda h, t, e: h * per_row(e).reshape(-1, 1),
            [{"extra": [torch.tensor(float(i + 1))]} for i in range(3)],
            id="lists with an element for each row",
        ),
        pytest.param(
            lambda h, t, e: h + e[0].reshape(len(h), -1),
            [{"extra": [torch.full((1, 4), float(i))]} for i in range(3)],
            id="lists of tensors that are rows themselves, one as long as the batch",
        ),
        pytest.param(
            lambda h, t, e: h + e.reshape(len(h), 2, 4).sum(1),
            [{"extra": torch.full((2, 4), float(i)), "rows": 1} for i in range(3)],
            id="frames folded into rows",
        ),
        pytest.param(
            lambda h, t, e: torch.cat([h.chunk(2)[0] - h.chunk(2)[1]] * 2),
            [{"rows": 2} for _ in range(3)],
            id="a model that cuts its batch into halves",
        ),
        pytest.param(
            lambda h, t, e: h * e.unsqueeze(0).expand(1, 4).sum(),
            [{"extra": torch.ones(1)} for _ in range(3)],
            id="a shared table as long as the batch by accident",
        ),
        pytest.param(
            lambda h, t, e: h + e["a"][0] + e["b"][1],
            [{"extra": {"a": (torch.full((1, 4), float(i)),), "b": [1.0, 2.0]}} for i in range(3)],
            id="nested arguments",
        ),
    ],
)
def test_many_ways_to_hold_a_batch_are_found(answer, arguments):
    assert_right(ProvenBatches(), [call(Denoiser(answer), i, **one) for i, one in enumerate(arguments)], share=True)
