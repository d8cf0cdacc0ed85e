"""Streamed text is final, and ends before the first stop string."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_worker.errors import RequestError
from omni_worker.language.text import IncrementalDetokenizer, TextTokenizer
from omni_worker.requests import GenerationParams, Message
from tests.worker.language.tiny_models import START, tokenizer

TOKENIZER = TextTokenizer(tokenizer())
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[answer]{% endif %}"
)


def tokens(text):
    return TOKENIZER.encode(GenerationParams(prompt=text))


@given(st.text(min_size=1))
def test_pieces_make_the_whole_text(text):
    detokenizer = IncrementalDetokenizer(TOKENIZER.decode)
    parts = [detokenizer.add(token) for token in tokens(text)]
    assert "".join([*parts, detokenizer.flush()]) == text == detokenizer.text
    assert not any("\ufffd" in part for part in parts if "\ufffd" not in text)


def test_a_character_comes_when_its_last_byte_has():
    detokenizer = IncrementalDetokenizer(TOKENIZER.decode)
    assert [detokenizer.add(token) for token in tokens("a€b😀")] == ["a", "", "", "€", "b", "", "", "", "😀"]


def test_an_unfinished_character_is_told_at_the_end():
    detokenizer = IncrementalDetokenizer(TOKENIZER.decode)
    assert [detokenizer.add(token) for token in tokens("a€")[:-1]] == ["a", "", ""]
    assert detokenizer.flush() == "\ufffd"


def test_a_text_to_stop_at_is_found_over_tokens_and_not_told():
    detokenizer = IncrementalDetokenizer(TOKENIZER.decode, ["END", "<|"])
    parts = []
    for token in tokens("an EN and an END of it"):
        parts.append(detokenizer.add(token))
        if detokenizer.has_stopped:
            break
    assert "".join(parts) + detokenizer.flush() == "an EN and an " == detokenizer.text


def test_what_may_be_the_beginning_of_a_stop_is_held_back():
    detokenizer = IncrementalDetokenizer(TOKENIZER.decode, ["abc"])
    assert [detokenizer.add(token) for token in tokens("xabab")] == ["x", "", "", "ab", ""]
    assert detokenizer.flush() == "ab"


@given(st.text("ab€", max_size=20), st.lists(st.text("ab€", min_size=1, max_size=4), max_size=3))
def test_the_text_ends_before_the_first_stop_and_no_piece_was_wrong(text, stop):
    detokenizer, parts = IncrementalDetokenizer(TOKENIZER.decode, stop), []
    for token in TOKENIZER._tokenizer.encode(text):
        parts.append(detokenizer.add(token))
        if detokenizer.has_stopped:
            break
    parts.append(detokenizer.flush())
    whole = "".join(parts)
    assert whole == detokenizer.text
    assert text.startswith(whole)
    assert not any(one in whole for one in stop)
    assert detokenizer.has_stopped == any(one in text for one in stop)


def test_a_conversation_is_written_by_the_models_template():
    params = GenerationParams(
        prompt="b", messages=(Message(role="system", content="a"), Message(role="user", content="b"))
    )
    with_template = TextTokenizer(tokenizer(TEMPLATE))
    assert with_template.decode(with_template.encode(params)) == "[system]a[user]b[answer]"
    assert TOKENIZER.decode(TOKENIZER.encode(params)) == "b"


def test_a_template_that_refuses_says_why():
    refusing = TextTokenizer(tokenizer("{{ raise_exception('only users may speak') }}"))
    with pytest.raises(RequestError, match="only users may speak") as failure:
        refusing.encode(GenerationParams(prompt="b", messages=(Message(role="tool", content="b"),)))
    assert (failure.value.kind, failure.value.param) == ("invalid", "messages")


def test_an_empty_prompt_is_the_start_alone():
    assert tokens("") == [START]
