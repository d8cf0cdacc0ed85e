"""Images of requests that are still running."""

import msgspec
import numpy as np
import pytest

from omni_worker.config import model_source
from omni_worker.engine.library import generate
from omni_worker.engine.scheduler import RequestProgress, RequestStatus
from omni_worker.pipelines.interception import previews
from omni_worker.pipelines.loading import load
from omni_worker.requests import GenerationParams


def previews_of(pipeline, params, **others):
    events = []
    ended = generate(pipeline, [params, *others.get("beside", ())], on_event=events.append)
    assert all(end.status is RequestStatus.COMPLETED for end in ended), ended
    shown = [event for event in events if isinstance(event, RequestProgress) and event.partial is not None]
    return ended[0].result.images[0], [(event.step, event.partial[0]) for event in shown if event.id == "0"]


@pytest.fixture(scope="module")
def digits():
    return load(model_source.parse("builtin://digits"), step_execution=True).pipeline


def test_previews_come_every_few_steps_and_look_more_and_more_like_the_end(digits, monkeypatch):
    monkeypatch.setattr(previews, "MAX_TIME_SHARE", 1.0)
    params = GenerationParams(prompt="a red three on black background", seed=3, steps=12)
    plain = generate(digits, [params])[0].result.images[0]
    beside = [GenerationParams(prompt="a blue one on white background", seed=i, steps=9) for i in range(2)]
    final, shown = previews_of(digits, msgspec.structs.replace(params, preview_every=3), beside=beside)
    assert np.abs(final.astype(int) - plain.astype(int)).max() <= 2, "previews do not change the image"
    assert [step for step, _ in shown] == [3, 6, 9]
    distances = [np.abs(preview.astype(int) - final.astype(int)).mean() for _, preview in shown]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 10, "three steps before the end it is nearly there"


def test_previews_that_cost_too_much_are_left_out(digits, monkeypatch):
    monkeypatch.setattr(previews, "MAX_TIME_SHARE", 0.0)
    params = GenerationParams(prompt="a red three on black background", steps=12, preview_every=1)
    assert len(previews_of(digits, params)[1]) == 1
    assert digits.stats()["preview_seconds"] > 0


def test_a_preview_that_fails_harms_nothing_else(digits, monkeypatch):
    monkeypatch.setattr(previews, "unfinished_result", lambda output: 1 / 0)
    params = GenerationParams(prompt="a red three on black background", steps=4, preview_every=1)
    assert previews_of(digits, params)[1] == []
