"""One event is one line of data, whatever a client takes for the end of a line."""

import json

import pytest

from omni_worker.api.streams import format_event


@pytest.mark.parametrize(
    "separator", ["\n", "\r", "\r\n", "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1e", "\ud800"]
)
def test_text_does_not_end_a_line(separator):
    event = format_event({"text": f"a{separator}b"}, "piece")
    name, data, empty = event.splitlines()  # splits at all of them
    assert (name, empty) == ("event: piece", "")
    assert json.loads(data.removeprefix("data: ")) == {"text": f"a{separator}b"}
    assert event.encode("ascii")
