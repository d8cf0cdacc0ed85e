"""How the process ends after a failure: as after SIGTERM, or, if that hangs, without more ado."""

import subprocess
import sys

import pytest

CODE = """
import signal, sys, threading
from omni_operator.controller import kopf_wiring
from omni_operator.controller.background import Background

kopf_wiring.END_SECONDS = 0.2
signal.signal(signal.SIGTERM, {handler})
background = Background()
background.on_failure = kopf_wiring.end_process

def lease():
    raise ValueError("Expecting value: line 1 column 1 (char 0)")

background.start_thread("lease-omni-system", lease)
threading.Event().wait(60)
sys.exit(77)
"""


@pytest.mark.parametrize(
    ("handler", "code"), [("lambda *_: sys.exit(3)", 3), ("lambda *_: None", 1), ("signal.SIG_IGN", 1)]
)
def test_the_end_of_a_thread_ends_the_process(handler: str, code: int) -> None:
    command = [sys.executable, "-c", CODE.format(handler=handler)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert "the thread lease-omni-system has ended: ValueError('Expecting value: line 1 column 1" in done.stderr
