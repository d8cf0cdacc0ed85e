"""Which calls have equal keys."""

import pytest
import torch

from omni_worker.pipelines.batching.keys import KeyTable
from tests.worker.pipelines.batching.calls import Denoiser, call, good


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param({"rows": 1}, {"rows": 2}, id="another number of rows"),
        pytest.param({"extra": "a"}, {"extra": "b"}, id="another argument that is no tensor"),
        pytest.param({"extra": torch.zeros(1, 3)}, {"extra": torch.zeros(1, 5)}, id="another length of prompt"),
        pytest.param({"extra": torch.zeros(1)}, {"extra": torch.zeros(1, dtype=torch.int64)}, id="another dtype"),
        pytest.param({"extra": [1]}, {"extra": (1,)}, id="another structure"),
        pytest.param({"extra": {"a": 1}}, {"extra": {"b": 1}}, id="another name"),
        pytest.param({"extra": object()}, {"extra": object()}, id="objects that nothing is known of"),
    ],
)
def test_calls_that_cannot_be_merged_have_other_keys(one, other):
    denoiser, keys = Denoiser(good), KeyTable()
    assert keys.of(call(denoiser, 0, **one)) != keys.of(call(denoiser, 1, **other))
    assert keys.of(call(denoiser, 0, rows=2)) == keys.of(call(denoiser, 1, rows=2))
