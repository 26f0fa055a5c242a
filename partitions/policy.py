"""How a table is to be partitioned and archived, declared beside the models that use it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import combinations

from partitions.bounds import KeyAt, KeyRange, Month
from partitions.errors import (
    DuplicatePolicy,
    EmptyGroup,
    MonthWithoutKeys,
    NameTooLong,
    NegativeMonths,
    RetentionShorterThanGrace,
    ValueInTwoGroups,
)
from partitions.sql import cut

SHORTEST_MONTH_DAYS = 28


@dataclass(frozen=True, slots=True)
class DeclaredIndex:
    """An index that one partition has of its own.

    Parameters:
        definition: what stands in CREATE INDEX behind the partition's name.
        unique: whether it is UNIQUE.
    """

    definition: str
    unique: bool = False


@dataclass(frozen=True)
class ListPartitions:
    """A table PARTITION BY LIST: named groups of values. A migration makes the partitions.

    Parameters:
        table: the partitioned table.
        groups: the values that each partition holds, by partition name.
        indexes: the indexes that a partition must have besides those of its parent, by its name and theirs.
        key: the partition key.
        row_id: the column that is to be unique over all partitions, though no index can promise it.
        analyze_every: how old the statistics of the whole table may be.

    Raises:
        ValueInTwoGroups: a value cannot be in two partitions.
        NameTooLong: PostgreSQL would cut a partition's name off.
        EmptyGroup: a partition without values cannot be made.
    """

    table: str
    groups: Mapping[str, frozenset[str]]
    indexes: Mapping[str, Mapping[str, DeclaredIndex]] = field(default_factory=dict)
    key: str = "status"
    row_id: str = "order_id"
    analyze_every: timedelta = timedelta(days=7)

    def __post_init__(self) -> None:
        for (one, values), (other, others) in combinations(self.groups.items(), 2):
            if values & others:
                raise ValueInTwoGroups(self.table, min(values & others), one, other)
        for name, values in self.groups.items():
            if not values:
                raise EmptyGroup(self.table, name)
            _refuse_long(self.table, name)


@dataclass(frozen=True)
class Retention:
    """How long a month stays. Declaring it says that its rows are needed nowhere else: nothing is exported.

    Parameters:
        months: how many whole months before the current one stay attached.
        drop_delay: how long a detached month can still be attached again, before it is dropped.
    """

    months: int
    drop_delay: timedelta = timedelta(days=7)


@dataclass(frozen=True)
class MonthlyRange:
    """A table PARTITION BY RANGE over an integer key that rises with time: a partition for each month.

    Parameters:
        table: the partitioned table.
        key: its key column.
        key_at: the smallest key of an instant.
        months_ahead: how many months after the current one must stand ready.
        grace: how old a row may be when it comes here.
        retention: which months leave; None keeps all.
        tablespace: where new months are stored; None is the database's own.
        analyze_every: how old the statistics of the whole table may be.

    Raises:
        NegativeMonths: `months_ahead`, or the months of `retention`, are less than none.
        RetentionShorterThanGrace: a month would leave before its last rows have come.
        NameTooLong: PostgreSQL would cut the months' names off.
    """

    table: str
    key: str
    key_at: KeyAt
    months_ahead: int = 3
    grace: timedelta = timedelta(0)
    retention: Retention | None = None
    tablespace: str | None = None
    analyze_every: timedelta = timedelta(days=7)

    def __post_init__(self) -> None:
        kept = 0 if self.retention is None else self.retention.months
        if self.months_ahead < 0 or kept < 0:
            raise NegativeMonths(self.table, min(self.months_ahead, kept))
        if self.retention is not None and timedelta(days=SHORTEST_MONTH_DAYS * kept) < self.grace:
            raise RetentionShorterThanGrace(self.table, months=kept, grace=self.grace)
        _refuse_long(self.table, self.partition_of(Month(2024, 1)))

    def keys_of(self, month: Month) -> KeyRange:
        """Return the keys of a month.

        Raises:
            MonthWithoutKeys: there are none so early, or so late.
        """
        try:
            return month.keys(self.key_at)
        except (ValueError, OverflowError) as fault:
            raise MonthWithoutKeys(self.table, str(month), str(fault)) from fault

    def partition_of(self, month: Month) -> str:
        """Return the name of a month's partition, as in `orders_archive_2026_11`."""
        return f"{self.table}_{month.year:04}_{month.number:02}"

    def oldest_kept(self, current: Month) -> Month | None:
        """Return the oldest month that stays; None when all do."""
        return None if self.retention is None else current.later(-self.retention.months)


Policy = ListPartitions | MonthlyRange


def _refuse_long(table: str, partition: str) -> None:
    if cut(partition) != partition:
        raise NameTooLong(table, partition)


def validated(policies: Iterable[Policy]) -> tuple[Policy, ...]:
    """Return policies that do not contradict each other.

    Raises:
        DuplicatePolicy: two are about the same table.
    """
    found = tuple(policies)
    for table, count in Counter(policy.table for policy in found).items():
        if count > 1:
            raise DuplicatePolicy(table)
    return found


@dataclass(frozen=True)
class ArchivePolicy:
    """Which rows leave which live table for which archive, and what travels with them.

    Parameters:
        live: the table, or the partition, that holds finished rows.
        archive: the table that takes them; it has the same columns.
        key: the integer key that all these tables share; it rises with time.
        finished_at: the column of the time when a row was finished.
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
