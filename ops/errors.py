"""The base of every error that `mesctl` reports, and the exit statuses that scripts rely on."""

from enum import IntEnum


class ExitStatus(IntEnum):
    """What `mesctl` returns to the shell."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    """Nothing was changed, because a check refused it."""


class OpsError(Exception):
    """One clear line for the person at the terminal: what happened, to what, and what to do."""

    exit_status = ExitStatus.FAILED
