"""Text from servers, made safe for a terminal, which would obey escape sequences in it."""

import unicodedata
from typing import Any

REPLACEMENT = "\ufffd"
KEPT = "\n\t"
DIRECTIONS = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Marks that reorder the characters around them."""


def plain_text(text: str) -> str:
    """`text` with control characters, except line ends and tabs, and marks of direction replaced by U+FFFD."""
    return "".join(character if _is_plain(character) else REPLACEMENT for character in text)


def plain_json(value: Any) -> Any:
    """A JSON value whose strings and names are plain text."""
    if isinstance(value, str):
        return plain_text(value)
    if isinstance(value, list):
        return [plain_json(item) for item in value]
    if isinstance(value, dict):
        return {plain_text(name): plain_json(item) for name, item in value.items()}
    return value


def _is_plain(character: str) -> bool:
    if character.isprintable() or character in KEPT:
        return character not in DIRECTIONS
    return unicodedata.category(character) not in ("Cc", "Cs") and character not in DIRECTIONS
