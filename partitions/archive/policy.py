"""How finished rows are to be archived, declared beside the models that use them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta


@dataclass(frozen=True)
class ArchivePolicy:
    """Which rows leave which live table for which archive, and what travels with them.

    Parameters:
        live: the table, or the partition, that holds finished rows.
        archive: the table that takes them; it has the same columns.
        key: the integer key that all these tables share; it rises with time.
        finished_at: the column that tells when a row was finished.
        grace: how long a finished row stays live.
        children: the archive of each table whose rows travel along, by live table.
        unless_exists: tables that must hold no row of the key: work on it is still owed.
        partition_of: the table that `live` is a partition of; None when it is none. A row of a child belongs
            to a row of this table.
    """

    live: str
    archive: str
    key: str
    finished_at: str
    grace: timedelta
    children: Mapping[str, str] = field(default_factory=dict)
    unless_exists: tuple[str, ...] = ()
    partition_of: str | None = None

    @property
    def tree(self) -> str:
        """The table of all live rows, finished or not."""
        return self.partition_of or self.live

    @property
    def moves(self) -> Mapping[str, str]:
        """The archive of every table, the live table first."""
        return {self.live: self.archive, **self.children}
