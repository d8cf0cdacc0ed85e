"""The requests with which a replica warms up: with inputs of the size that the model is used at."""

import asyncio

import pytest
from msgspec.structs import replace

from omni_settings.load import WarmUp
from omni_worker.engine.scheduler import Finished, RequestStatus
from omni_worker.model_card import ModelCard, ServingDefaults
from omni_worker.replica.warm_up import IMAGE_SIDE, batches_of, warm_up, warm_up_params


@pytest.mark.parametrize(
    ("card", "size"),
    [
        pytest.param({}, (IMAGE_SIDE, IMAGE_SIDE), id="the model names no size"),
        pytest.param({"width": 64, "height": 32}, (64, 32), id="the pipeline's own"),
        pytest.param(
            {"width": 64, "height": 32, "defaults": ServingDefaults(width=128, height=96)}, (128, 96), id="served with"
        ),
    ],
)
def test_the_input_has_the_size_at_which_the_model_is_used(card, size):
    params = warm_up_params(ModelCard(pipeline="P", mode="step", needs_image=True, mask=True, **card), seed=1)
    (image,) = params.images
    assert (image.shape[1::-1], params.mask.shape[::-1]) == (size, size)


def test_a_model_that_needs_no_image_gets_none():
    assert warm_up_params(ModelCard(pipeline="P", mode="step"), seed=1).images == []


@pytest.mark.parametrize(
    ("card", "seconds"),
    [({}, None), ({"seconds": 60.0}, 1.0), ({"seconds": 0.5}, 0.5), ({"defaults": ServingDefaults(seconds=9.0)}, 1.0)],
)
def test_a_sound_is_short(card, seconds):
    assert warm_up_params(ModelCard(pipeline="P", mode="step", audio=True, **card), seed=1).seconds == seconds


CARD = ModelCard(pipeline="P", mode="step", sized=True)


def batches(settings=None, card=CARD, max_num_seqs=32):
    loaded = None if settings is None else WarmUp.model_validate(settings)
    return [(batch.count, batch.size) for batch in batches_of(loaded, card, max_num_seqs)]


def test_each_size_is_run_with_each_batch_size():
    settings = {"sizes": ["64x32", "32x32", "64x32"], "batchSizes": [4, 1]}
    assert batches(settings) == [(1, (64, 32)), (4, (64, 32)), (1, (32, 32)), (4, (32, 32))]
    assert batches({"batchSizes": [1, 2]}) == [(1, None), (2, None)]
    assert batches({"batchSizes": [2, 8, 16]}, max_num_seqs=8) == [(2, None), (8, None)]


def test_without_settings_a_few_batches_grow():
    assert batches() == [(2, None), (4, None), (8, None)]


def test_a_model_without_sizes_or_batches_runs_what_it_can():
    assert batches({"sizes": ["64x32"]}, replace(CARD, sized=False)) == [(1, None), (2, None), (4, None)]
    assert batches({"batchSizes": [1, 8]}, replace(CARD, mode="request")) == [(1, None)]


def test_all_batches_run_and_the_progress_is_told():
    class Server:
        """Answers at once."""

        def __init__(self):
            self.sizes = []

        async def run_locally(self, id, params):
            self.sizes.append((params.width, params.height))
            return Finished(id, RequestStatus.COMPLETED)

    server, progress = Server(), []
    settings = WarmUp.model_validate({"sizes": ["64x32"], "batchSizes": [1, 2]})
    done = asyncio.run(warm_up(server, CARD, 8, settings, lambda done, total: progress.append((done, total))))
    assert done
    assert server.sizes == [(64, 32)] * 3
    assert progress == [(0, 2), (1, 2)]
