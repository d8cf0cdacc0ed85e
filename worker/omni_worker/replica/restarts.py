"""When a process that died may be started again, and when no more: pure, with the caller's clock."""

FIRST_PAUSE_SECONDS = 1.0
MOST_RESTARTS = 5
WINDOW_SECONDS = 600.0
STEADY_SECONDS = 60.0


class Restarts:
    """The deaths of one process. MOST_RESTARTS within WINDOW_SECONDS are forgiven, and all where it ran steadily since.

    The pauses double: 1, 2, 4, 8 and 16 s.
    """

    def __init__(self) -> None:
        self._deaths: list[float] = []

    def pause(self, now: float, lived: float) -> float | None:
        """It died, and had been up for `lived` seconds: how long to wait before its next start; None for ever."""
        if lived >= STEADY_SECONDS:
            self._deaths.clear()
        self._deaths = [death for death in self._deaths if now - death < WINDOW_SECONDS] + [now]
        earlier = len(self._deaths) - 1
        return None if earlier == MOST_RESTARTS else FIRST_PAUSE_SECONDS * 2**earlier

    @property
    def story(self) -> str:
        """How often it died, in words."""
        return f"{len(self._deaths)} times within {WINDOW_SECONDS / 60:g} minutes"
