"""What can go wrong with a migration, each fault with its facts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alembic.util import CommandError

if TYPE_CHECKING:
    from migrations.outcome import Outcome


class MigrationError(CommandError):
    """Base of every error that this package raises; `alembic` and `mesctl` print it as one line."""


class LedgerUnreachable(MigrationError):
    """The directory cannot be written, so that nobody would know what was done."""

    def __init__(self, directory: str, reason: str) -> None:
        self.directory = directory
        self.reason = reason
        super().__init__(
            f"the migration ledger in {directory} cannot be written, nothing was begun: {reason}"
        )


class MigrationsBusy(MigrationError):
    """Another run holds the lock of a database."""

    def __init__(self, database: str, *, waited_seconds: float) -> None:
        self.database = database
        super().__init__(
            f"{database}: another migration still runs after {waited_seconds:g} s; "
            "try again when it has ended (`mesctl migrate status` shows it)"
        )


class FleetFailed(MigrationError):
    """At least one database of a tree was not brought to where it should be."""

    def __init__(self, outcomes: Sequence["Outcome"]) -> None:
        self.outcomes = tuple(outcomes)
        lines = "; ".join(outcome.line for outcome in outcomes if not outcome.done)
        super().__init__(f"{lines}. The same command again goes on where this one stopped")
