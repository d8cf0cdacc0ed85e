"""A process that tells a supervisor what replicas tell, and holds no model: what it does is its argument."""

import json
import os
import signal
import sys
import threading
import time


def tell(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)


def drain(record):
    tell("draining")
    time.sleep(0.3)
    note(record, "drained")
    tell("stopped")
    os._exit(0)


def note(record, *fields):
    with open(record, "a") as file:  # noqa: PTH123
        print(*fields, file=file)


def main(kind, record):
    config = json.loads(sys.stdin.readline())
    note(record, config["index"], os.getpid(), time.time())
    tell("loading")
    if kind == "cannot start":
        tell("failed", reason="there is no such model")
        sys.exit(1)
    signal.signal(signal.SIGTERM, lambda *_: drain(record))
    tell("loaded", pipeline="P", mode="step")
    if kind == "dies" or (kind == "the second dies" and config["index"] == 1):
        sys.exit(7)
    if kind == "does not drain":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while kind != "falls silent":
        tell("alive")
        time.sleep(0.05)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
