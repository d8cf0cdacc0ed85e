"""What ends a local run: a failure, or the user's interrupt."""


class LocalFailure(Exception):
    """The pipeline cannot start, or cannot continue, on this machine."""

    exit_code = 1


class Interrupted(Exception):
    """The user interrupted the backend while it was waiting."""
