"""The check of the words that this project does not use."""

from pathlib import Path

import pytest

from hack import prose


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It shall be drawn Anew.", ["'shall': write must, will", "'Anew': write again, from the start"]),
        ("A shallow copy is renewed; mindset.", []),
    ],
)
def test_each_such_word_is_reported_with_its_place_and_what_to_write(
    text: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    file = tmp_path / "page.md"
    file.write_text(f"First line.\n{text}\n")
    assert list(prose.problems(file)) == [f"page.md:2: {problem}" for problem in expected]
