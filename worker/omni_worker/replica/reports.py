"""The reports of a replica process to its supervisor, as the supervisor reads them: lines of JSON, strictly validated.

Whatever else a process writes, such as a library's print, is skipped. It must not end the supervisor, which keeps the
other replicas running.
"""

import asyncio
import logging
from collections.abc import AsyncIterator

import msgspec

log = logging.getLogger(__name__)
MAX_LINE_BYTES = 4 << 20
READ_BYTES = 64 << 10
LOGGED_BYTES = 200
LOGGED_LINES = 10


class Alive(msgspec.Struct, frozen=True, tag_field="event", tag="alive"):
    """The process's event loop runs."""


class Stats(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="stats"):
    """Statistics of the engine: numbers by name, and rows about its batches as in `batch_report`."""

    numbers: dict[str, float] = {}
    batch_counts: list[tuple[str, str, int, int, float]] = []
    batch_sizes: list[tuple[str, str, str, float, float | None, float | None]] = []


class Membership(msgspec.Struct, frozen=True, tag_field="event", tag="membership"):
    """Whether the replica is registered, and the head's reason if it refused."""

    registered: bool
    refusal: str | None = None


class Failed(msgspec.Struct, frozen=True, tag_field="event", tag="failed"):
    """The process is about to end, for this reason."""

    reason: str


class Loading(msgspec.Struct, frozen=True, tag_field="event", tag="loading"):
    """The process loads its model, or has loaded it and run `warmed_up` of `warm_ups` batches to warm up."""

    warmed_up: int = 0
    warm_ups: int = 0


class Loaded(msgspec.Struct, frozen=True, tag_field="event", tag="loaded"):
    """The model is loaded."""


class Draining(msgspec.Struct, frozen=True, tag_field="event", tag="draining"):
    """The replica finishes its requests, and then ends."""


class Stopped(msgspec.Struct, frozen=True, tag_field="event", tag="stopped"):
    """The replica has finished its requests."""


Report = Alive | Stats | Membership | Failed | Loading | Loaded | Draining | Stopped
_decoder: msgspec.json.Decoder[Report] = msgspec.json.Decoder(Report)


async def read_reports(stream: asyncio.StreamReader, name: str) -> AsyncIterator[Report]:
    """The reports in `stream` until it ends. Logs and skips every line that is none. `name` is for the log."""
    rest, is_too_long, skipped = bytearray(), False, 0
    while chunk := await stream.read(READ_BYTES):
        *lines, last = bytes(rest + chunk).split(b"\n")
        for line in lines:
            report = None if is_too_long else _report_in(line)
            if report is not None:
                yield report
            elif line.strip():
                skipped += 1
                if skipped <= LOGGED_LINES:
                    log.warning("%s wrote what is no report: %r", name, line[:LOGGED_BYTES])
            is_too_long = False
        rest = bytearray(last)
        if len(rest) > MAX_LINE_BYTES:
            rest, is_too_long = bytearray(), True


def _report_in(line: bytes) -> Report | None:
    try:
        return _decoder.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
