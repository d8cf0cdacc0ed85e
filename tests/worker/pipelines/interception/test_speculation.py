"""Speculative calls: their results are used if the pipeline makes these calls, and change nothing otherwise."""

import numpy as np
import pytest
import torch

from omni_worker.engine.library import generate
from omni_worker.engine.scheduler import RequestStatus
from omni_worker.pipelines.batching.comparing import TensorEquality
from omni_worker.pipelines.interception.speculation import MISS_PENALTY, SCORE_LIMIT, Speculation, SpeculationScores
from omni_worker.pipelines.interception.stepping import MAX_SPECULATING_REQUESTS, InterceptedPipeline
from tests.worker.pipelines.batching.calls import call, good, key
from tests.worker.pipelines.survey import difference, specimen
from tests.worker.pipelines.zoo import qwen_image
from tests.worker.pipelines.zoo.check import arrays

torch.set_num_threads(1)
QWEN = specimen(qwen_image, "QwenImagePipeline")


class Request:
    """What a pipeline with guidance calls: the same latents and timestep twice, with a prompt and without."""

    def __init__(self, scores=None):
        self.speculation = Speculation(TensorEquality(), scores or SpeculationScores())
        self.prompt, self.without = torch.ones(1, 3), torch.zeros(1, 3)

    def calls(self, step, **kwargs):
        latents = torch.full((1, 4), float(step))
        return [
            call(good, 0, timestep=torch.tensor(1.0 / step), hidden_states=latents, extra=extra, **kwargs)
            for extra in (self.prompt, self.without)
        ]

    def step(self, step, calls=None, **kwargs):
        """Make a step's calls. Returns the calls predicted at the first one, and the result taken at the second one."""
        first, second = calls or self.calls(step, **kwargs)
        key_of_it = key(first)
        assert self.speculation.record_call(first, key_of_it, step) == 0
        predicted = self.speculation.predict_calls(first, key_of_it)
        if predicted:
            self.speculation.expect_calls(key_of_it, predicted, ["the result"])
        assert self.speculation.record_call(second, key_of_it, step) == 1
        return predicted, self.speculation.take_result(second, key_of_it)


def test_the_second_call_is_predicted_from_the_second_step_on():
    request = Request()
    assert request.step(1) == ([], (False, None))
    predicted, (has_result, result) = request.step(2)
    assert (has_result, result) == (True, "the result")
    (one,) = predicted
    assert one.kwargs["hidden_states"].tolist() == [[2.0] * 4]
    assert one.kwargs["timestep"].item() == 0.5
    assert torch.equal(one.kwargs["extra"], request.without)


@pytest.mark.parametrize("changed", ["hidden_states", "timestep", "extra"])
def test_a_call_that_differs_in_any_tensor_gets_no_speculated_result(changed):
    scores = SpeculationScores()
    request = Request(scores)
    request.step(1)
    first, second = request.calls(2)
    second.kwargs[changed] = second.kwargs[changed] + 1.0
    assert request.step(2, (first, second))[1] == (False, None)
    assert (scores.confirmed, scores.mistaken) == (0, 1)


def test_a_call_that_is_not_made_at_all_is_a_miss_and_the_next_step_goes_on():
    scores = SpeculationScores()
    request = Request(scores)
    request.step(1)
    first, _ = request.calls(2)
    request.speculation.record_call(first, key(first), 2)
    request.speculation.expect_calls(key(first), request.speculation.predict_calls(first, key(first)), ["the result"])
    assert request.speculation.take_result(request.calls(3)[0], key(first)) == (False, None)
    assert request.speculation.take_result(request.calls(3)[1], key(first)) == (False, None), "it is forgotten"
    assert scores.mistaken == 1


def test_keys_whose_predictions_fail_are_soon_given_up_and_nearly_always_right_ones_are_not():
    scores = SpeculationScores()
    of_it = key(Request().calls(1)[0])
    for _ in range(SCORE_LIMIT // MISS_PENALTY):
        assert scores.is_worthwhile(of_it)
        scores.reject(of_it)
    assert not scores.is_worthwhile(of_it)
    scores = SpeculationScores()
    for _ in range(5):
        for _ in range(2 * MISS_PENALTY):
            scores.confirm(of_it)
        scores.reject(of_it)
    assert scores.is_worthwhile(of_it)


def test_a_call_with_a_generator_is_not_predicted():
    request = Request()
    generator = torch.Generator()
    request.step(1, generator=generator)
    assert request.step(2, generator=generator)[0] == []


WRITES = {
    "in place": lambda tensor: tensor.fill_(7.0),
    "by index": lambda tensor: tensor.__setitem__(..., 7.0),
    "through a view": lambda tensor: tensor.view(-1).add_(2.0),
    "through data": lambda tensor: tensor.data.add_(2.0),
    "through numpy": lambda tensor: tensor.numpy().fill(7.0),
}


@pytest.mark.parametrize("argument", ["hidden_states", "timestep", "extra"])
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("inference", [False, True], ids=["plain", "inference mode"])
def test_a_call_whose_tensor_was_written_to_gets_no_speculated_result(write, argument, inference):
    request = Request()
    with torch.inference_mode(inference):
        request.prompt, request.without = torch.ones(1, 3), torch.zeros(1, 3)
        steps = [request.calls(step) for step in (1, 2)]
    request.step(1, steps[0])
    first, second = steps[1]
    request.speculation.record_call(first, key(first), 2)
    predicted = request.speculation.predict_calls(first, key(first))
    assert predicted
    request.speculation.expect_calls(key(first), predicted, ["the result"])
    with torch.inference_mode(inference):
        WRITES[write](second.kwargs[argument])
    request.speculation.record_call(second, key(first), 2)
    assert request.speculation.take_result(second, key(first)) == (False, None)


def test_a_speculative_call_writes_into_no_tensor_of_the_pipeline():
    request = Request()
    request.step(1)
    first, _ = request.calls(2)
    request.speculation.record_call(first, key(first), 2)
    (predicted,) = request.speculation.predict_calls(first, key(first))
    for value in predicted.kwargs.values():
        value.fill_(9.0)
    assert first.kwargs["hidden_states"].tolist() == [[2.0] * 4]
    assert request.without.tolist() == [[0.0] * 3]


@pytest.fixture(scope="module")
def expected():
    pipe = built()
    with torch.no_grad():
        return [arrays(pipe(**QWEN.arguments(i))) for i in range(MAX_SPECULATING_REQUESTS)]


def built():
    torch.manual_seed(0)
    return QWEN.build()


def run_requests(pipeline, count):
    """The requests' results, and how many batches of their loops were run."""
    rounds, real = [], pipeline.denoise_step
    pipeline.denoise_step = lambda states: rounds.append(states[0].in_loop) or real(states)
    ended = generate(pipeline, [QWEN.arguments(i) for i in range(count)])
    assert all(end.status is RequestStatus.COMPLETED for end in ended)
    pipeline.denoise_step = real
    return ended, sum(rounds)


def test_requests_together_take_fewer_batches_and_their_images_are_right(expected, monkeypatch):
    pipeline = InterceptedPipeline(built())
    ended, rounds = run_requests(pipeline, MAX_SPECULATING_REQUESTS)
    assert all(difference(arrays(end.result), own) <= 2 for end, own in zip(ended, expected, strict=True))
    assert pipeline.stats()["calls_foreseen"] > 0
    assert pipeline.stats()["calls_mistaken"] == 0
    monkeypatch.setattr(Speculation, "predict_calls", lambda *_: [])
    assert run_requests(InterceptedPipeline(built()), MAX_SPECULATING_REQUESTS)[1] > rounds


def test_a_request_alone_makes_its_calls_one_by_one_to_the_bit(expected):
    pipeline = InterceptedPipeline(built())
    (end,), _ = run_requests(pipeline, 1)
    assert all(map(np.array_equal, arrays(end.result), expected[0]))
    assert pipeline.stats()["calls_foreseen"] == 0


def test_wrong_predictions_change_no_image(expected, monkeypatch):
    monkeypatch.setattr(Speculation, "_predict", lambda self, first, other, now: other)  # with the latents of last step
    pipeline = InterceptedPipeline(built())
    for _ in range(2):
        ended, _ = run_requests(pipeline, MAX_SPECULATING_REQUESTS)
        assert all(difference(arrays(end.result), own) <= 2 for end, own in zip(ended, expected, strict=True))
    assert pipeline.stats()["calls_foreseen"] == 0
    assert 0 < pipeline.stats()["calls_mistaken"] <= 2 * MAX_SPECULATING_REQUESTS, "it gives up"


@pytest.mark.parametrize("trouble", ["fails", "draws from the random generator"])
def test_calls_that_cannot_run_ahead_run_when_they_are_made(expected, monkeypatch, trouble):
    pipeline = InterceptedPipeline(built())
    real, tries = pipeline.batches.compute, []

    def run(calls):
        if len({one.context.request_id for one in calls}) < len(calls):
            tries.append(1)
            if trouble == "fails":
                raise torch.OutOfMemoryError("no room for twice as many")
            before = calls[0].context.random_state
            calls[0].context.random_state = torch.Generator().manual_seed(len(tries)).get_state()
            assert not torch.equal(before, calls[0].context.random_state)
        return real(calls)

    pipeline.batches.compute = run
    ended, _ = run_requests(pipeline, MAX_SPECULATING_REQUESTS)
    assert all(difference(arrays(end.result), own) <= 2 for end, own in zip(ended, expected, strict=True))
    assert len(tries) == 1, "once, for all that come after"
    assert pipeline.stats()["calls_foreseen"] == 0


def test_a_failure_of_calls_that_were_run_ahead_is_nobodys_and_others_are_run_ahead_again(expected):
    pipeline = InterceptedPipeline(built())
    real, failures = pipeline.batches.compute, ["poisoned"]

    def run(calls):
        if len({one.context.request_id for one in calls}) < len(calls) and failures:
            raise RuntimeError(failures.pop())
        return real(calls)

    pipeline.batches.compute = run
    ended, _ = run_requests(pipeline, MAX_SPECULATING_REQUESTS)
    assert all(difference(arrays(end.result), own) <= 2 for end, own in zip(ended, expected, strict=True))
    assert pipeline.stats()["calls_foreseen"] > 0


def test_more_than_a_few_requests_fill_their_batches_without(monkeypatch):
    pipeline, ran = InterceptedPipeline(built()), []
    real = pipeline._run_calls

    def watched(calls, speculated):
        ran.append((len(pipeline.runs), any(speculated)))
        return real(calls, speculated)

    monkeypatch.setattr(pipeline, "_run_calls", watched)
    run_requests(pipeline, MAX_SPECULATING_REQUESTS + 2)
    assert not any(speculated for requests, speculated in ran if requests > MAX_SPECULATING_REQUESTS)
