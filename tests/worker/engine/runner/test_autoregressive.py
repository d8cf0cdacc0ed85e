"""An autoregressive stage through the real engine writes what `generate` writes, whatever comes and goes beside it."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from omni_worker.config import model_source
from omni_worker.config.records import EngineConfig
from omni_worker.engine.build import build_engine
from omni_worker.engine.scheduler import Finished, RequestStatus, SchedulerRequest
from omni_worker.errors import RequestError
from omni_worker.language.loading import wrap
from tests.worker.engine.language_engine import LanguageEngine, answer, params
from tests.worker.language import tiny_models

from .generated import generated, model, tokens

PROMPTS = [bytes(range(65, 65 + 3 * i + 1)).decode() for i in range(1, 9)]
LENGTHS = [3, 17, 9, 30, 1, 12, 22, 6]


@pytest.mark.parametrize("kind", tiny_models.KINDS)
def test_one_request_alone_is_what_generate_writes(kind):
    for prompt, count in zip(PROMPTS[:4], LENGTHS[:4], strict=True):
        assert tokens(answer(model(kind), params(prompt, max_tokens=count))) == generated(prompt, count, kind)[0]


@pytest.mark.parametrize("kind", tiny_models.KINDS)
def test_requests_that_come_and_go_are_what_generate_writes(kind):
    writer = LanguageEngine(model(kind), max_num_seqs=5)
    for i, (prompt, count) in enumerate(zip(PROMPTS, LENGTHS, strict=True)):
        writer.add(str(i), params(prompt, max_tokens=count))
        writer.step(2)
    writer.finish()
    for i, (prompt, count) in enumerate(zip(PROMPTS, LENGTHS, strict=True)):
        assert tokens(writer.result(str(i))) == generated(prompt, count, kind)[0]


@pytest.mark.parametrize("kind", [kind for kind in tiny_models.KINDS if "longrope" in kind])
@pytest.mark.parametrize("length", range(tiny_models.BORDER - 3, tiny_models.BORDER + 3))
def test_texts_on_both_sides_of_a_border_are_what_generate_writes(kind, length):
    writer = LanguageEngine(model(kind))
    asked = {"hello": 12, "y" * length: 12, "x" * 300: 20, "z" * (length - 1): 8}
    for prompt, count in asked.items():
        writer.add(prompt, params(prompt, max_tokens=count))
        writer.step(2)
    writer.finish()
    for prompt, count in asked.items():
        assert tokens(writer.result(prompt)) == generated(prompt, count, kind)[0]


def test_a_request_that_resumes_beyond_a_border_writes_the_same():
    kind, prompt = "phi3, longrope", "y" * (tiny_models.BORDER - 4)
    whole = tokens(answer(model(kind), params(prompt, max_tokens=14)))
    assert tokens(answer(model(kind), params(prompt, written=whole[:8], max_tokens=14))) == whole


def test_a_token_that_the_model_lacks_fails_its_request_only():
    small = wrap(tiny_models.bare("llama", vocab_size=257, pad_token_id=None), tiny_models.tokenizer())
    writer = LanguageEngine(small)
    writer.add("lacks", params("a</s>b", max_tokens=3))
    writer.add("good", params("ab", max_tokens=3))
    writer.finish()
    with pytest.raises(RequestError, match="lacks the token 257"):
        writer.result("lacks")
    assert len(tokens(writer.result("good"))) == 3


@settings(deadline=None, max_examples=15)
@given(
    st.lists(
        st.tuples(st.sampled_from(PROMPTS), st.sampled_from(LENGTHS), st.integers(0, 6), st.integers(-1, 1)),
        max_size=10,
    ),
    st.sampled_from(["fifo", "drr", "srpt", "edf"]),
    st.integers(1, 6),
    st.sets(st.integers(0, 9), max_size=3),
)
def test_arrivals_aborts_and_priorities_change_nothing_that_is_written(arrivals, policy, max_num_seqs, aborted):
    writer = LanguageEngine(model("gemma3, mixed"), max_num_seqs, policy)
    for i, (prompt, count, pause, priority) in enumerate(arrivals):
        writer.add(str(i), params(prompt, max_tokens=count), priority=priority)
        writer.step(pause)
        if i in aborted:
            writer.engine.abort(str(i))
    writer.finish()
    for i, (prompt, count, _, _) in enumerate(arrivals):
        if writer.ended[str(i)].status is RequestStatus.COMPLETED:
            assert tokens(writer.result(str(i))) == generated(prompt, count, "gemma3, mixed")[0]
        else:
            assert i in aborted


def test_a_long_prompt_goes_in_by_chunks_and_stops_nobody():
    writer = LanguageEngine(model())
    writer.add("short", params("A", max_tokens=40, stream=True))
    writer.step(3)
    told = len(writer.partials["short"])
    prompt = "long " * 90
    writer.add("long", params(prompt, max_tokens=3))
    writer.step(3)
    assert len(writer.partials["short"]) - told == 3, "its tokens share the calls"
    assert "long" not in writer.ended
    writer.finish()
    assert tokens(writer.result("long")) == generated(prompt, 3)[0]
    assert tokens(writer.result("short")) == generated("A", 40)[0]


def test_a_preempted_request_goes_on_where_it_was():
    writer = LanguageEngine(model(), max_num_seqs=1)
    writer.add("low", params("ABC", max_tokens=12))
    writer.step(5)
    writer.add("high", params("DEF", max_tokens=4), priority=5)
    writer.finish()
    assert writer.order == ["high", "low"]
    assert tokens(writer.result("low")) == generated("ABC", 12)[0]
    assert writer.runner.stats()["tokens_seen_again"] == 0


def test_where_memory_is_short_rows_are_given_up_and_made_again():
    small = tiny_models.served("llama")
    small.slots.cache.max_tokens = 3 * 64
    writer = LanguageEngine(small, max_num_seqs=6)
    for i in range(6):
        writer.add(str(i), params(PROMPTS[i], max_tokens=60, hidden_states=True))
    writer.finish()
    for i in range(6):
        assert tokens(writer.result(str(i))) == generated(PROMPTS[i], 60)[0]
        assert writer.result(str(i)).embeddings["output_hidden_states"].shape == (60, 64)
    assert writer.runner.stats()["tokens_seen_again"] > 0


def test_a_long_prompt_takes_no_room_from_short_ones():
    small = tiny_models.served("llama", max_position_embeddings=2048)
    small.slots.cache.max_tokens = 4096
    writer = LanguageEngine(small, max_num_seqs=32)
    writer.add("long", params("x" * 1000, max_tokens=300))
    for i in range(31):
        writer.add(str(i), params(f"hello {i}", max_tokens=60))
    writer.step(1 + 60)  # the first step prepares them
    assert set(writer.ended) == {str(i) for i in range(31)}
    assert writer.runner.stats()["tokens_seen_again"] == 0
    writer.finish()
    assert tokens(writer.result("long")) == tokens(answer(small, params("x" * 1000, max_tokens=300)))


# ---- drawing


def test_what_is_drawn_depends_on_the_seed_and_on_nobody_else():
    def asked(i):
        return params(
            PROMPTS[i], seed=i, max_tokens=20, temperature=0.5 + i / 4, top_p=0.9 if i % 2 else 1.0, top_k=i * 5
        )

    alone = [tokens(answer(model(), asked(i))) for i in range(6)]
    writer = LanguageEngine(model(), max_num_seqs=4)
    for i in (3, 0, 5, 1, 4, 2):
        writer.add(str(i), asked(i))
        writer.step(i)
    writer.finish()
    assert [tokens(writer.result(str(i))) for i in range(6)] == alone
    assert alone[1] != tokens(answer(model(), params(PROMPTS[1], seed=7, max_tokens=20, temperature=1.0)))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_goes_on_from_any_place_as_if_nothing_had_happened(temperature):
    asked = {
        "max_tokens": 14,
        "temperature": temperature,
        "logprobs": 2,
        "seed": 4,
        "stream": True,
        "hidden_states": True,
    }
    first = LanguageEngine(model())
    first.add("r", params("ABC", **asked))
    first.finish()
    whole, partials = first.result("r"), first.partials["r"]
    for cut in range(len(partials) + 1):
        told = [token for partial in partials[:cut] for token in partial.tokens]
        second = LanguageEngine(model())
        second.add("r", params("ABC", written=told, **asked))
        second.add("beside", params("XYZ", max_tokens=5))
        second.finish()
        result = second.result("r")
        assert tokens(result) == tokens(whole)
        assert result.completion.written.text == whole.completion.written.text
        pieces = [*partials[:cut], *second.partials.get("r", [])]
        assert [token for piece in pieces for token in piece.tokens] == tokens(whole)[:-1]
        assert whole.completion.written.text.startswith("".join(piece.text for piece in pieces))
        for one, other in zip(result.completion.written.logprobs, whole.completion.written.logprobs, strict=True):
            assert one.token == other.token
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
        for name, states in whole.embeddings.items():
            np.testing.assert_allclose(result.embeddings[name], states, atol=1e-3)


def test_an_answer_that_was_all_told_ends_at_once():
    written = generated("ABC", 5)[0]
    result = answer(model(), params("ABC", written=written, max_tokens=5))
    assert (result.completion.finish_reason, tokens(result)) == ("length", written)


# ---- the end of an answer


def test_the_models_end_is_among_the_tokens_and_not_in_the_text():
    written, _, _ = generated("ABC", 12)
    end = written[6]
    place = written.index(end)
    stopping = tiny_models.served("llama", eos_token_id=end)
    result = answer(stopping, params("ABC", max_tokens=12, hidden_states=True))
    assert result.completion.finish_reason == "stop"
    assert tokens(result) == written[: place + 1]
    assert result.completion.written.text == tiny_models.tokenizer().decode(written[:place])
    assert len(result.embeddings["output_hidden_states"]) == place + 1


@pytest.mark.parametrize("stream", [True, False])
def test_a_text_to_stop_at_ends_the_answer_before_it(stream):
    ascii_only = params("ABC", max_tokens=200, temperature=1.5, seed=1)
    text = answer(model(), ascii_only).completion.written.text
    place = next(
        i for i in range(4, len(text) - 3) if "\ufffd" not in text[i : i + 2] and text.find(text[i : i + 2]) == i
    )
    stop = text[place : place + 2]
    writer = LanguageEngine(model())
    writer.add("r", params("ABC", max_tokens=200, temperature=1.5, seed=1, stop=(stop, "never"), stream=stream))
    writer.finish()
    result = writer.result("r")
    assert result.completion.finish_reason == "stop"
    assert result.completion.written.text == text[:place]
    assert len(tokens(result)) < 200
    if stream:
        assert text[:place].startswith("".join(piece.text for piece in writer.partials["r"]))


def test_the_count_of_tokens_ends_the_rest():
    result = answer(model(), params("ABC", max_tokens=7))
    assert (result.completion.finish_reason, len(tokens(result)), result.steps) == ("length", 7, 7)
    assert result.completion.prompt_tokens == 3


def test_without_a_count_the_folders_counts_or_what_is_left():
    assert len(tokens(answer(tiny_models.served("llama", max_tokens=16), params("ABC")))) == 16
    assert len(tokens(answer(model(), params("ABC")))) == tiny_models.CONTEXT - 3


# ---- what comes along


def test_pieces_are_told_as_they_are_written():
    writer = LanguageEngine(model())
    writer.add("r", params("ABC", max_tokens=9, stream=True))
    writer.add("quiet", params("ABC", max_tokens=9))
    writer.finish()
    assert [piece.tokens for piece in writer.partials["r"]] == [[token] for token in generated("ABC", 9)[0][:-1]]
    assert "quiet" not in writer.partials


def test_log_probabilities_are_those_of_generates_scores():
    written, scores, _ = generated("ABCD", 8)
    logs = torch.log_softmax(scores, -1)
    told = answer(model(), params("ABCD", max_tokens=8, logprobs=3)).completion.written.logprobs
    decode = model().tokenizer._tokenizer.decode

    def name(token):
        return decode([token])

    for i, one in enumerate(told):
        assert one.token == name(written[i])
        assert one.logprob == pytest.approx(logs[i, written[i]].item(), abs=1e-4)
        assert [token for token, _ in one.likeliest] == [name(token) for token in logs[i].topk(3).indices.tolist()]
        assert [log for _, log in one.likeliest] == pytest.approx(logs[i].topk(3).values.tolist(), abs=1e-4)
    assert len(told) == 8
    assert answer(model(), params("A", max_tokens=2, logprobs=0)).completion.written.logprobs[0].likeliest == ()


@pytest.mark.parametrize("kind", ["llama", "gemma2, mixed and soft-capped"])
def test_hidden_states_are_those_of_transformers(kind):
    writer = LanguageEngine(model(kind))
    writer.add("r", params(PROMPTS[5], max_tokens=10, hidden_states=True))
    writer.add("beside", params(PROMPTS[2], max_tokens=4))
    writer.finish()
    _, _, states = generated(PROMPTS[5], 10, kind)
    told = writer.result("r").embeddings
    np.testing.assert_allclose(told["prompt_hidden_states"], states[0].numpy(), atol=1e-3)
    drawn_from = torch.stack([one[-1] for one in states])
    np.testing.assert_allclose(told["output_hidden_states"], drawn_from.numpy(), atol=1e-3)
    assert told["output_hidden_states"].dtype == np.float32
    assert writer.result("beside").embeddings == {}


@pytest.mark.parametrize("by", ["the stage's task", "the request"])
def test_an_encoder_gives_the_prompts_states_and_draws_nothing(by):
    prompt = "long " * 70
    writer = LanguageEngine(model(), encode_only=by == "the stage's task")
    asked = (
        params(prompt, max_tokens=5) if by == "the stage's task" else params(prompt, max_tokens=0, hidden_states=True)
    )
    writer.add("r", asked)
    writer.add("s", params("A", max_tokens=0, hidden_states=True))
    writer.finish()
    result = writer.result("r")
    np.testing.assert_allclose(result.embeddings["prompt_hidden_states"], generated(prompt, 1)[2][0].numpy(), atol=1e-3)
    assert (result.completion.finish_reason, tokens(result), result.completion.written.text) == ("length", [], "")
    assert result.embeddings["output_hidden_states"].shape == (0, 64)
    assert writer.result("s").embeddings["prompt_hidden_states"].shape == (1, 64)
    assert writer.runner.stats()["tokens"] == 0


# ---- failures


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        (params("A" * tiny_models.CONTEXT), "prompt"),
        (params("A" * 500, max_tokens=13), "max_tokens"),
        (params("A", max_tokens=-1), "max_tokens"),
        (params("A", temperature=-0.1), "temperature"),
        (params("A", top_p=0.0), "top_p"),
        (params("A", top_k=-1), "top_k"),
        (params("A", logprobs=21), "logprobs"),
    ],
)
def test_what_cannot_be_is_refused_by_name(asked, param):
    with pytest.raises(RequestError) as failure:
        answer(model(), asked)
    assert (failure.value.kind, failure.value.param) == ("invalid", param)


def test_an_abort_frees_its_slot_within_a_step():
    writer = LanguageEngine(model())
    for id in "ab":
        writer.add(id, params("ABC", max_tokens=50))
    writer.step(6)
    assert writer.runner.stats()["slots"] == 2
    writer.engine.abort("a")
    writer.step()
    assert writer.runner.stats()["slots"] == 1
    assert writer.ended["a"].status is RequestStatus.ABORTED
    writer.finish()
    assert tokens(writer.result("b")) == generated("ABC", 50)[0]


# ---- as a replica builds it


@pytest.mark.parametrize("task", ["generate", "encode"])
def test_a_stage_is_built_from_its_configuration(tmp_path, task):
    tiny_models.save(tmp_path / "thinker")
    if task == "generate":
        (tmp_path / "model_index.json").write_text("{}")
        (tmp_path / "omni.json").write_text(json.dumps({"language": {"subfolder": "thinker", "max_tokens": 4}}))
    folder = tmp_path if task == "generate" else tmp_path / "thinker"
    config = EngineConfig(None, 4, 8, True, "fifo", kind="autoregressive", task=task)
    ended = []
    engine, card = build_engine(config, model_source.parse(str(folder)), ended.append, ended.append)
    assert (card.pipeline, card.mode, card.context_length) == ("LlamaForCausalLM", task, tiny_models.CONTEXT)
    engine.add(SchedulerRequest("r", params("ABC")))
    while not any(isinstance(event, Finished) for event in ended):
        engine.step()
    result = ended[-1].result
    if task == "generate":
        assert tokens(result) == generated("ABC", 4)[0]
    else:
        assert result.embeddings["prompt_hidden_states"].shape == (3, 64)
