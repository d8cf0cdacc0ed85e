"""Decides when a process that died may be restarted. Pure: the caller passes the time."""

FIRST_PAUSE_SECONDS = 1.0
MAX_RESTARTS = 5
WINDOW_SECONDS = 600.0
STEADY_SECONDS = 60.0


class Restarts:
    """The deaths of one process.

    A process may be restarted MAX_RESTARTS times within WINDOW_SECONDS, after pauses of 1, 2, 4, 8 and 16 s. A process
    that was up for STEADY_SECONDS starts with a clean record.
    """

    def __init__(self) -> None:
        self._deaths: list[float] = []

    def pause(self, now: float, uptime: float) -> float | None:
        """Record a death after `uptime` seconds. Returns the seconds to wait before the restart, or None to give up."""
        if uptime >= STEADY_SECONDS:
            self._deaths.clear()
        self._deaths = [death for death in self._deaths if now - death < WINDOW_SECONDS] + [now]
        earlier = len(self._deaths) - 1
        return None if earlier == MAX_RESTARTS else FIRST_PAUSE_SECONDS * 2**earlier

    @property
    def summary(self) -> str:
        """How often the process died, for a message."""
        return f"{len(self._deaths)} times within {WINDOW_SECONDS / 60:g} minutes"
