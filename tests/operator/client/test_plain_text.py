"""What a server says never controls the terminal of who asked."""

import httpx
import pytest

from omni_operator.client.errors import RequestFailed
from omni_operator.client.plain_text import plain_json, plain_text


@pytest.mark.parametrize(
    "text", ["a\x1b[2Jb", "a\x9b2Jb", "a\rb", "a\x00b", "a\x7fb", "a\u202eb", "a\x08b", "a\ud800b"]
)
def test_control_characters_are_replaced(text):
    assert plain_text(text).startswith("a\ufffd")
    assert plain_text(text).endswith("b")
    assert "a\ufffd" in str(RequestFailed(text))


@pytest.mark.parametrize("text", ["two\nlines\tand a tab", "naïve 図 🎨 e\u0301", "a\u00a0b", "👩\u200d🎨"])
def test_text_stays(text):
    assert plain_text(text) == text


def test_every_string_of_a_response_is_plain():
    assert plain_json({"\x1b": [{"a": "\x1b]0;x\x07"}, 1, None]}) == {"\ufffd": [{"a": "\ufffd]0;x\ufffd"}, 1, None]}


def test_errors_of_httpx_subclasses_are_made_from_one_message():
    assert str(RequestFailed(str(httpx.ReadError("\x1b[31m")))) == "\ufffd[31m"
