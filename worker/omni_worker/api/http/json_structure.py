"""Bounds the structure of a JSON text before it is parsed: a small text can make millions of values and errors.

Checks no syntax: what is not JSON is left to the parser. Every step ends within milliseconds, so that in a thread the
check leaves the interpreter to others.
"""

import re
from collections import deque

MAX_DEPTH = 64
MAX_VALUES = 50_000
MAX_MEMBERS = 1_000
"""Of one object."""
PIECE = 1 << 20
STRING_PIECE = 1 << 16
TOKEN = re.compile(rb'["\[\]{},]')
STRING = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
OPENING, CLOSING = (b"[", b"{"), (b"]", b"}")


def structure_error(text: bytes) -> str | None:
    """Why a JSON text has too much structure; None if it has not."""
    commas, openings = text.count(b","), text.count(b"[") + text.count(b"{")
    if openings <= MAX_DEPTH and commas < MAX_MEMBERS:
        return None  # even if none of them is part of a string
    position, values, open_members = 0, 0, deque[int]()  # the members of each open object; of lists too, not used
    kinds = deque[bytes]()
    while (match := _next_token(text, position)) is not None:
        position, token = match.end(), match.group()
        if token == b'"':
            position = _end_of_string(text, position)
            values += 1
        elif token in OPENING:
            kinds.append(token)
            open_members.append(1)
            values += 1
            if len(kinds) > MAX_DEPTH:
                return f"the JSON is nested more than {MAX_DEPTH} deep"
        elif token in CLOSING:
            if kinds:
                kinds.pop()
                open_members.pop()
        elif kinds:
            values += 1
            open_members[-1] += 1
            if kinds[-1] == b"{" and open_members[-1] > MAX_MEMBERS:
                return f"an object of the JSON has more than {MAX_MEMBERS} members"
        if values > 2 * MAX_VALUES:  # strings were counted twice, with the comma before them
            return f"the JSON has more than {MAX_VALUES} values"
    return None


def _next_token(text: bytes, position: int) -> re.Match[bytes] | None:
    """The next token outside of strings."""
    while position < len(text):
        if match := TOKEN.search(text, position, position + PIECE):
            return match
        position += PIECE
    return None


def _end_of_string(text: bytes, position: int) -> int:
    """The position behind the string that starts at `position`, behind its quotation mark."""
    end = text.find(b'"', position)
    if end >= 0 and text.find(b"\\", position, end) < 0:
        return end + 1
    while position < len(text):
        match = STRING.match(text, position, position + STRING_PIECE)
        assert match is not None
        position = match.end()
        if text[position : position + 1] == b'"':
            return position + 1
        if match.end() == match.start():  # a lone backslash at the end of the piece, or of the text
            position += 2
    return position
