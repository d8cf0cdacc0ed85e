"""From one stage to the next: which stages a request needs, and the parameters that each gets."""

import numpy as np
import pytest

from omni_worker.config.records import Stage
from omni_worker.errors import RequestError
from omni_worker.orchestrator.handover import (
    combine_results,
    outputs_of,
    required_stages,
    stage_params,
    with_input_from,
)
from omni_worker.requests import Completion, GeneratedText, GenerationParams, GenerationResult, Message, SamplingParams

ENCODER = Stage(0, "encoder", "autoregressive", task="encode")
THINKER = Stage(0, "thinker", "autoregressive")
BY_TEXT = Stage(1, "painter", "diffusion", input="text")
BY_STATES = Stage(1, "painter", "diffusion", input="hidden-states")
PARAMS = GenerationParams(prompt="two plus five", seed=3, messages=(Message(role="user", content="two plus five"),))


def wrote(text: str, **embeddings: np.ndarray) -> GenerationResult:
    completion = Completion(written=GeneratedText(text=text, tokens=[1, 2]), finish_reason="stop", prompt_tokens=3)
    return GenerationResult(completion=completion, embeddings=embeddings)


@pytest.mark.parametrize(
    ("stages", "outputs", "names"),
    [
        pytest.param([THINKER, BY_TEXT], {"text"}, ["thinker"], id="text alone leaves the painter out"),
        pytest.param([THINKER, BY_TEXT], {"image"}, ["thinker", "painter"], id="a picture needs both"),
        pytest.param([THINKER, BY_TEXT], {"text", "image"}, ["thinker", "painter"], id="both need both"),
        pytest.param([ENCODER, BY_STATES], {"image"}, ["encoder", "painter"], id="an encoder comes first"),
        pytest.param([THINKER], {"text"}, ["thinker"], id="a language model alone"),
        pytest.param([BY_TEXT], {"image"}, ["painter"], id="a painter alone"),
    ],
)
def test_a_request_goes_up_to_the_last_stage_that_gives_what_it_wants(stages, outputs, names):
    assert [stage.name for stage in required_stages(stages, frozenset(outputs))] == names


@pytest.mark.parametrize(
    ("stages", "outputs"),
    [
        pytest.param([BY_TEXT], {"text"}, id="text of a painter"),
        pytest.param([THINKER], {"image"}, id="a picture of a language model"),
        pytest.param([ENCODER, BY_STATES], {"text"}, id="text of an encoder"),
        pytest.param([THINKER], set(), id="nothing"),
    ],
)
def test_what_no_stage_gives_is_refused(stages, outputs):
    with pytest.raises(RequestError) as refusal:
        required_stages(stages, frozenset(outputs))
    assert (refusal.value.kind, refusal.value.param) == ("invalid", "modalities")


def test_an_encoder_gives_no_text():
    assert outputs_of([ENCODER, BY_STATES]) == {"image"}


def test_states_are_asked_for_only_where_the_next_stage_takes_them():
    assert stage_params(THINKER, BY_STATES, PARAMS).hidden_states
    assert not stage_params(THINKER, BY_TEXT, PARAMS).hidden_states
    assert not stage_params(THINKER, None, PARAMS).hidden_states


def test_a_stage_has_its_own_instruction_and_length_where_the_request_says_nothing():
    rewriter = Stage(0, "rewriter", "autoregressive", system="Describe it.", max_tokens=50)
    asked = stage_params(rewriter, BY_TEXT, GenerationParams(prompt="a cat"))
    assert [(one.role, one.content) for one in asked.messages] == [("system", "Describe it."), ("user", "a cat")]
    assert asked.sampling.max_tokens == 50
    own = GenerationParams(
        prompt="a cat",
        messages=(Message(role="system", content="In verse."), Message(role="user", content="a cat")),
        sampling=SamplingParams(max_tokens=7),
    )
    assert stage_params(rewriter, BY_TEXT, own).messages == own.messages
    assert stage_params(rewriter, BY_TEXT, own).sampling.max_tokens == 7


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        pytest.param(" a blue seven\n", "a blue seven", id="without the space around it"),
        pytest.param("<think>7, so\n</think>\n\na blue seven", "a blue seven", id="without what was thought aloud"),
    ],
)
def test_text_becomes_the_prompt(text, prompt):
    given = with_input_from(BY_TEXT, PARAMS, wrote(text))
    assert (given.prompt, given.messages, given.seed) == (prompt, (), 3)


def test_no_text_is_the_failure_of_this_request():
    with pytest.raises(RequestError, match="is empty"):
        with_input_from(BY_TEXT, PARAMS, wrote("  "))


def test_states_of_what_was_written_take_the_place_of_the_prompt():
    states = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    prompt = np.zeros((4, 3), np.float32)
    given = with_input_from(
        BY_STATES, PARAMS, wrote("a blue seven", prompt_hidden_states=prompt, output_hidden_states=states)
    )
    np.testing.assert_array_equal(given.embeddings["prompt_embeds"], states)
    np.testing.assert_array_equal(given.embeddings["prompt_embeds_mask"], [1, 1])


def test_where_nothing_was_written_the_states_of_the_prompt_are_with_input_from():
    prompt, none = np.ones((4, 3), np.float32), np.zeros((0, 3), np.float32)
    given = with_input_from(BY_STATES, PARAMS, wrote("", prompt_hidden_states=prompt, output_hidden_states=none))
    np.testing.assert_array_equal(given.embeddings["prompt_embeds"], prompt)


def test_what_an_encoder_made_is_with_input_from_as_it_is():
    made = {"encode_prompt": np.zeros(3, np.uint8), "0": np.ones((1, 2, 3), np.float32)}
    assert with_input_from(BY_STATES, PARAMS, GenerationResult(embeddings=made)).embeddings == made


def test_no_states_are_the_failure_of_this_request():
    with pytest.raises(RequestError, match="no hidden states"):
        with_input_from(BY_STATES, PARAMS, wrote("a blue seven"))


def test_the_answer_has_the_last_pictures_and_the_last_text():
    picture = np.zeros((2, 2, 3), np.uint8)
    whole = combine_results([wrote("a blue seven"), GenerationResult(images=[picture], steps=4)])
    assert whole.completion.written.text == "a blue seven"
    assert whole.images[0] is picture
    assert whole.steps == 4
