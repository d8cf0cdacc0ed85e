"""A process that reports to a supervisor as a replica does, without a model. Its argument says how it behaves."""

import json
import os
import signal
import sys
import threading
import time


def report(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)


def drain(record):
    report("draining")
    time.sleep(0.3)
    append(record, "drained")
    report("stopped")
    os._exit(0)


def babble():
    """Write everything that is no report."""
    for line in (
        b"Downloading: 100%",
        b"null",
        b"[1, 2]",
        b"7",
        b'{"event": "unheard of"}',
        b'{"event": ["loaded"]}',
        b'{"phase": "dead"}',
        b'{"event": "membership", "registered": "yes"}',
        b'{"event": "failed"}',
        b'{"event": "stats", "numbers": {"waiting": "many"}, "batch_counts": [[1]]}',
        b"\xff\xfe\x00",
        b"",
        b"[" * 100_000,
        b"x" * (10 << 20),
    ):
        os.write(1, line + b"\n")
    os.write(1, b'{"event": "stats", "numbers": {"waiting": 3}}\n')


def append(record, *fields):
    with open(record, "a") as file:  # noqa: PTH123
        print(*fields, file=file)


def main(kind, record):
    config = json.loads(sys.stdin.readline())
    append(record, config["index"], os.getpid(), time.time())
    report("loading")
    if kind == "cannot start":
        report("failed", reason="there is no such model")
        sys.exit(1)
    signal.signal(signal.SIGTERM, lambda *_: drain(record))
    report("loaded", pipeline="P", mode="step")
    if kind == "dies" or (kind == "the second dies" and config["index"] == 1):
        sys.exit(7)
    if kind == "does not drain":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if kind == "babbles":
        babble()
    while kind != "falls silent":
        report("alive")
        time.sleep(0.05)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
