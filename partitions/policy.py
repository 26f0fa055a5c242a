"""How a table is to be partitioned, declared beside the models that use it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from partitions.months import KeyAt, Month


@dataclass(frozen=True)
class ListPartitions:
    """A table PARTITION BY LIST: named groups of values. A migration makes them, for a value is schema here.

    Parameters:
        table: the partitioned table.
        groups: the values that each partition holds, by partition name.
        indexes: the indexes that a partition must have besides those of its parent, by partition name.
    """

    table: str
    groups: Mapping[str, frozenset[str]]
    indexes: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class MonthlyRange:
    """A table PARTITION BY RANGE over an integer key that rises with time: a partition for each month.

    Parameters:
        table: the partitioned table.
        key: its key column.
        key_at: the smallest key of an instant.
        months_ahead: how many months after the current one must stand ready.
    """

    table: str
    key: str
    key_at: KeyAt
    months_ahead: int = 3

    def partition_of(self, month: Month) -> str:
        """Name a month's partition, as in `orders_archive_2026_11`."""
        return f"{self.table}_{month.year:04}_{month.number:02}"


Policy = ListPartitions | MonthlyRange
