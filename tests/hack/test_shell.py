"""A long step shows that it continues, and one that failed says nothing more."""

import threading

import pytest
from hack.cluster import shell
from hack.cluster.shell import step


def test_a_long_step_reports_until_it_ends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    reported = threading.Event()
    say = shell.say

    def listen(message: str) -> None:
        say(message)
        if "so far" in message:
            reported.set()

    monkeypatch.setattr(shell, "REPORT_SECONDS", 0.01)
    monkeypatch.setattr(shell, "say", listen)
    with step("compiling"):
        assert reported.wait(30)
    first, *others, last = capsys.readouterr().err.splitlines()
    assert first == "cluster: compiling …"
    assert set(others) == {"cluster: compiling: 0 s so far …"}
    assert last == "cluster: compiling: done in 0 s"


def test_a_step_that_fails_is_not_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="broken"), step("compiling"):
        raise ValueError("broken")
    assert capsys.readouterr().err == "cluster: compiling …\n"
