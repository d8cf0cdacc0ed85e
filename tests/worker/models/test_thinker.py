"""The shipped thinker, used as anyone would: plain `from_pretrained`, greedy `generate`; and the painter it feeds."""

import json
import random

import pytest
import torch
from diffusers import QwenImagePipeline
from safetensors import safe_open
from transformers import Qwen3ForCausalLM

from omni_worker.models import DIGITS
from omni_worker.models.digits_reader import read
from omni_worker.models.digits_recipe import scoring as painting
from omni_worker.models.digits_recipe.captions import BACKGROUNDS, COLOURS, UNKNOWN
from omni_worker.models.digits_recipe.thinker import scoring
from omni_worker.models.digits_recipe.thinker.architecture import tokenizer as new_tokenizer
from omni_worker.models.digits_recipe.thinker.questions import (
    HELD_OUT,
    TRAINING_PAIRS,
    Question,
    Sum,
    all_pairs,
    training_question,
    vocabulary,
    with_random_style,
    wording,
)
from omni_worker.models.digits_recipe.thinker.rows import ROWS
from omni_worker.models.digits_recipe.thinker.scoring import Thinker, ThinkerAnswer

FOLDER = DIGITS / "thinker"
SAMPLES = 360
PICTURES = 50


@pytest.fixture(scope="module")
def thinker() -> Thinker:
    return scoring.load(DIGITS)


@pytest.fixture(scope="module")
def pipeline() -> QwenImagePipeline:
    return painting.load(DIGITS)


@pytest.fixture(scope="module")
def exam(thinker: Thinker) -> list[tuple[Question, ThinkerAnswer]]:
    """Questions about held-out sums in every colour and on every background, with the thinker's answers."""
    questions, prompts = scoring.exam(SAMPLES, seed=2)
    return list(zip(questions, thinker.answers(prompts), strict=True))


def test_sums_that_were_never_taught_are_right(exam: list[tuple[Question, ThinkerAnswer]]) -> None:
    wrong = [(question.request.caption, answer.text) for question, answer in exam if answer.text != _caption(question)]
    assert len(wrong) <= 0.02 * len(exam), wrong


def test_sums_that_were_taught_are_right(thinker: Thinker) -> None:
    words = random.Random(4)
    questions = [with_random_style(Sum(first, ((sign, second),)), words) for first, sign, second in TRAINING_PAIRS * 2]
    answers = thinker.answers([wording(question, words) for question in questions])
    assert scoring.share_right(questions, answers) >= 0.99


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("two plus five, in blue", "a blue seven on black background"),
        ("what is 3 + 4 in red on grey?", "a red seven on grey background"),
        ("What is 3+4 in red on gray?", "a red seven on grey background"),
        ("draw nine minus two in cyan", "a cyan seven on black background"),
        ("What’s 9 − 5?", "a white four on black background"),
        ("the sum of 1 and 7, in orange on grey", "an orange eight on grey background"),
        ("Subtract three from eight. Draw it in green.", "a green five on black background"),
        ("How much is one plus two plus three?", "a white six on black background"),
        ("magenta 4", "a magenta four on black background"),
        ("please kindly draw 2 + 2 in yellow", "a yellow four on black background"),
    ],
)
def test_a_visitor_s_own_wording(thinker: Thinker, prompt: str, answer: str) -> None:
    assert thinker.answers([prompt])[0].text == answer


def test_its_text_is_painted_as_asked(exam: list[tuple[Question, ThinkerAnswer]], pipeline: QwenImagePipeline) -> None:
    chosen = exam[:PICTURES]
    pictures = painting.paint(pipeline, [answer.text for _, answer in chosen])
    _expect_right(chosen, [read(picture) for picture in pictures])


@pytest.mark.parametrize("size", [32, 64])
def test_its_states_are_painted_as_asked(
    exam: list[tuple[Question, ThinkerAnswer]], pipeline: QwenImagePipeline, size: int
) -> None:
    """The states that the answer's tokens were predicted from, the end included, are the painter's prompt."""
    chosen = exam[: PICTURES if size == 32 else PICTURES // 2]
    assert {tuple(answer.states.shape) for _, answer in chosen} == {(ROWS, 64)}
    pictures = scoring.paint_states(pipeline, [answer.states for _, answer in chosen], size)
    _expect_right(chosen, [read(picture) for picture in pictures])


def test_an_answer_does_not_depend_on_its_batch(thinker: Thinker) -> None:
    prompts = ["two plus five, in blue", "please draw me the sum of one and six in red on a grey background, please"]
    together = thinker.answers(prompts)
    for prompt, answer in zip(prompts, together, strict=True):
        (alone,) = thinker.answers([prompt])
        assert alone.text == answer.text
        torch.testing.assert_close(alone.states, answer.states, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prompt", ["two plus five, in blue", "What is 3 + 4?", "", "xyzzy 日本語 <unk>"])
def test_a_chat_and_a_bare_prompt_are_the_same_tokens(thinker: Thinker, prompt: str) -> None:
    bare = thinker.tokenizer(prompt).input_ids
    earlier = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "1 + 1"}]
    for content in (prompt, [{"type": "text", "text": prompt}]):
        chat = [*earlier, {"role": "user", "content": content}]
        for adds_prompt in (True, False):
            assert (
                thinker.tokenizer.apply_chat_template(
                    chat, tokenize=True, add_generation_prompt=adds_prompt, return_dict=False
                )
                == bare
            )


@pytest.mark.parametrize("prompt", ["", "hello", "nine plus nine", "red " * 100])
def test_odd_prompts_are_answered_within_the_limit(thinker: Thinker, prompt: str) -> None:
    (answer,) = thinker.answers([prompt])
    assert 1 <= len(answer.states) <= scoring.MAX_TOKENS


def test_the_held_out_sums_never_occur_in_training() -> None:
    words = random.Random(0)
    assert set(TRAINING_PAIRS).isdisjoint(HELD_OUT)
    assert len(TRAINING_PAIRS) + len(HELD_OUT) == len(all_pairs()) == 110
    assert len(HELD_OUT) / 110 >= 0.15
    for _ in range(5000):
        question = training_question(words)
        assert HELD_OUT.isdisjoint(question.sum.pairs)
        assert 0 <= question.sum.result <= 9


def test_a_sum_that_is_held_out_is_so_in_either_order_and_backwards() -> None:
    for first, sign, second in HELD_OUT:
        if sign == "+":
            assert {(second, "+", first), (first + second, "-", first), (first + second, "-", second)} <= HELD_OUT


def test_every_question_is_made_of_known_words() -> None:
    words, tokenizer = random.Random(1), new_tokenizer()
    for _ in range(1000):
        asked = wording(training_question(words), words)
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(asked).input_ids)
        assert tokens.count(UNKNOWN) == asked.count(UNKNOWN), asked


def test_the_exam_covers_colours_and_backgrounds(exam: list[tuple[Question, ThinkerAnswer]]) -> None:
    requests = [question.request for question, _ in exam]
    assert {request.colour for request in requests} == set(COLOURS)
    assert {request.background for request in requests} == set(BACKGROUNDS)


def test_the_folder_is_small_and_float32_throughout(thinker: Thinker) -> None:
    assert isinstance(thinker.model, Qwen3ForCausalLM)
    assert {parameter.dtype for parameter in thinker.model.parameters()} == {torch.float32}
    (weights,) = FOLDER.glob("*.safetensors")
    assert weights.stat().st_size <= 1_500_000
    with safe_open(weights, framework="np") as tensors:
        assert {tensors.get_slice(name).get_dtype() for name in tensors.keys()} == {"F32"}  # noqa: SIM118
    assert thinker.tokenizer.get_vocab() == vocabulary()


def test_generating_is_greedy_and_ends_by_itself(thinker: Thinker) -> None:
    generation = json.loads((FOLDER / "generation_config.json").read_text())
    assert generation["do_sample"] is False
    assert generation["eos_token_id"] == generation["pad_token_id"] == thinker.tokenizer.eos_token_id


def test_the_serving_stack_is_told_of_it() -> None:
    assert json.loads((DIGITS / "omni.json").read_text())["language"] == {"subfolder": "thinker", "max_tokens": 16}


def test_it_is_as_wide_as_the_painter_s_text(thinker: Thinker, pipeline: QwenImagePipeline) -> None:
    assert thinker.model.config.hidden_size == pipeline.transformer.config.joint_attention_dim


def _caption(question: Question) -> str:
    return question.request.caption


def _expect_right(chosen: list[tuple[Question, ThinkerAnswer]], readings: list) -> None:
    score = painting.grade([question.request for question, _ in chosen], readings)
    print(score)
    assert min(score.digit, score.colour, score.background) >= 0.95
