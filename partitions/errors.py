"""The errors of this package, each with its facts."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime


class PartitionError(Exception):
    """Base of every error that this package raises."""


class AlembicMissing(PartitionError, ImportError):
    """The operations for migrations need alembic."""

    def __init__(self) -> None:
        super().__init__("alembic is not installed: pip install 'mes-storage[alembic]'")


class NotPartitioned(PartitionError):
    """The policy names a table that is absent, or that is no partitioned table."""

    def __init__(self, table: str) -> None:
        self.table = table
        super().__init__(f"{table} is not a partitioned table here: migrate the database first")


class UnknownBound(PartitionError):
    """A partition has a bound that this package cannot read: several key columns, or a modulus."""

    def __init__(self, partition: str, bound: str) -> None:
        self.partition = partition
        self.bound = bound
        super().__init__(f"partition {partition} has a bound of an unknown kind: {bound}")


class InfiniteBound(UnknownBound):
    """A partition of a RANGE table has no end on one side, so it covers months without number."""

    def __init__(self, partition: str, bound: str) -> None:
        super().__init__(partition, bound)
        self.args = (
            f"partition {partition} has an infinite bound: {bound}; months need finite ones: detach it, and "
            f"attach it again with the dates that its rows have",
        )


class PartitionOverlap(PartitionError):
    """A partition covers a part of a month, so that the month cannot be created."""

    def __init__(self, table: str, partition: str, month: str, bound: str = "") -> None:
        self.table = table
        self.partition = partition
        self.month = month
        self.bound = bound
        reach = f" ({bound}; months are those of UTC)" if bound else ""
        super().__init__(
            f"{table}: partition {partition}{reach} covers a part of {month} only; split or detach it first"
        )


class RangeKeyDiffers(PartitionError):
    """A table is partitioned otherwise than its policy says; nothing was planned."""

    def __init__(self, table: str, *, declared: str, found: str) -> None:
        self.table = table
        self.declared = declared
        self.found = found
        super().__init__(
            f"{table} is partitioned by {found}, its policy says {declared}: nothing was done; "
            f"correct the policy, or make a new table and move the rows"
        )


class MonthWithoutKeys(PartitionError):
    """A month that is needed is before the first key, or after the last one."""

    def __init__(self, table: str, month: str, reason: str) -> None:
        self.table = table
        self.month = month
        super().__init__(f"{table}: {month} has no keys: {reason}; is the clock of this machine right?")


class ClockDiffers(PartitionError):
    """The clocks of this machine and the server differ: months would come, and leave, by mistake."""

    def __init__(self, here: datetime, there: datetime) -> None:
        self.here = here
        self.there = there
        super().__init__(
            f"it is {here:%Y-%m-%d %H:%M} UTC here and {there:%Y-%m-%d %H:%M} UTC on the server: "
            f"nothing was done; set the clock right that is wrong"
        )


class PartitionNameTaken(PartitionError):
    """A table that is no partition has the name that a partition needs."""

    def __init__(self, table: str, name: str) -> None:
        self.table = table
        self.name = name
        super().__init__(
            f"{table}: {name} exists and is no partition of it: attach it by hand "
            f"(ALTER TABLE {table} ATTACH PARTITION {name} ...), or rename it"
        )


class DefaultPartitionBlocks(PartitionError):
    """With a DEFAULT partition nothing can be attached or detached without blocking every query."""

    def __init__(self, table: str, partition: str, rows: int | None) -> None:
        self.table = table
        self.partition = partition
        self.rows = rows
        known = "an unknown number of" if rows is None else f"about {rows}"
        super().__init__(
            f"{table}: the DEFAULT partition {partition} holds {known} rows; ATTACH would scan them under "
            f"ACCESS EXCLUSIVE, and DETACH CONCURRENTLY is refused: {default_partition_fix(table, partition)}"
        )


def default_partition_fix(table: str, partition: str) -> str:
    """Return the way to remove a DEFAULT partition that has rows."""
    return (
        f"ALTER TABLE {table} DETACH PARTITION {partition}; then apply the policies (from an earlier month "
        f"on for older rows); then INSERT INTO {table} SELECT * FROM {partition}, in no query meanwhile"
    )


class ManualChangeRefused(PartitionError):
    """What a person asked for cannot be done to what stands; nothing was changed."""


class NoSuchPartition(ManualChangeRefused):
    """The table has no partition, and no table beside it, of that name."""

    def __init__(self, table: str, name: str, there: Sequence[str]) -> None:
        self.table = table
        self.name = name
        super().__init__(f"{table} has no {name}; there are {', '.join(there) or 'none'}")


class NoSuchTable(ManualChangeRefused):
    """A person named a table that has no partitions to change, or none of that kind."""

    def __init__(self, table: str, kind: str, there: Sequence[str]) -> None:
        self.table = table
        super().__init__(f"{table} is no table that is partitioned{kind}; there are {', '.join(there)}")


class InvalidPartitionName(ManualChangeRefused):
    """A name that would have to be quoted for ever after."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"{name!r} is no name for a partition: lower-case letters, digits and _, a letter first"
        )


class ValueHeld(ManualChangeRefused):
    """A value is to be added that a partition takes already."""

    def __init__(self, table: str, value: str, partition: str) -> None:
        self.table = table
        self.value = value
        self.partition = partition
        super().__init__(
            f"{table}: {value} is in {partition} already: to move it with its rows, split "
            f"{partition} by it, then merge"
        )


class SamePartition(ManualChangeRefused):
    """A partition is to be merged into itself."""

    def __init__(self, partition: str) -> None:
        self.partition = partition
        super().__init__(f"{partition} cannot be merged into itself: name two partitions")


class IndexExists(ManualChangeRefused):
    """The table has an index of that name, perhaps another one."""

    def __init__(self, table: str, index: str, *, valid: bool) -> None:
        self.table = table
        self.index = index
        way = "choose another name" if valid else "to apply the policies finishes it"
        super().__init__(f"{table} has an index {index} already: {way}, or drop it")


class TooManyRows(ManualChangeRefused):
    """More rows would have to move, while every query waits, than the caller allowed."""

    def __init__(self, partition: str, *, rows: int, max_rows: int) -> None:
        self.partition = partition
        self.rows = rows
        self.max_rows = max_rows
        super().__init__(
            f"{partition}: {rows} rows would move while every query waits, and {max_rows} are allowed: "
            f"do it when there are fewer, or allow {rows}"
        )


class NotDroppable(ManualChangeRefused):
    """A table may be dropped only when it was detached, and only after the delay."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason
        super().__init__(f"{name} was not dropped: {reason}")


@dataclass(frozen=True, slots=True)
class Blocker:
    """A session that others wait for. `query` is what it ran last; PostgreSQL may hide it from this role."""

    pid: int
    role: str
    application: str
    state: str
    seconds: float
    query: str

    def __str__(self) -> str:
        who = f"pid {self.pid} ({self.role}, {self.application or 'no application_name'})"
        return f"{who}, {self.state} for {self.seconds:.0f} s: {self.query}"


class PartitionsBusy(PartitionError):
    """Another session changes the partitions of this database."""

    def __init__(self, holders: Sequence[Blocker], *, waited_seconds: float) -> None:
        self.holders = tuple(holders)
        who = "; ".join(map(str, holders)) or "a session that has ended by now"
        super().__init__(
            f"another session changes the partitions of this database, waited {waited_seconds:g} s for {who}"
        )


class ActionFailed(PartitionError):
    """PostgreSQL refused an action; its step was rolled back."""

    def __init__(self, action: str, reason: str) -> None:
        self.action = action
        self.reason = reason
        super().__init__(f"{action}: {reason}")


class ActionBlocked(ActionFailed):
    """A lock was not free in any of the attempts."""

    def __init__(self, action: str, reason: str, *, attempts: int, blockers: Sequence[Blocker]) -> None:
        self.attempts = attempts
        self.blockers = tuple(blockers)
        who = "; ".join(map(str, blockers)) or "no session that was seen"
        super().__init__(action, f"{reason}; gave up after {attempts} attempts, blocked by {who}")


class ArchiveColumnsDiffer(PartitionError):
    """A live table and its archive have different columns, so that a row cannot move unchanged."""

    def __init__(self, live: str, archive: str, columns: Collection[str]) -> None:
        self.live = live
        self.archive = archive
        self.columns = tuple(columns)
        super().__init__(f"{live} and {archive} differ in {', '.join(columns)}: migrate them alike first")


class ArchiveCountMismatch(PartitionError):
    """Not every row that left a table came to its archive; the batch was rolled back."""

    def __init__(self, live: str, archive: str, *, deleted: int, inserted: int) -> None:
        self.live = live
        self.archive = archive
        self.deleted = deleted
        self.inserted = inserted
        super().__init__(
            f"{deleted} rows left {live} but {inserted} came to {archive}: the batch was rolled back; "
            f"look for triggers on {archive} and its partitions"
        )


class ArchiveBatchFailed(PartitionError):
    """PostgreSQL refused a batch; it was rolled back, and the batches before it stay."""

    def __init__(self, live: str, reason: str) -> None:
        self.live = live
        self.reason = reason
        super().__init__(f"{live}: a batch was rolled back: {reason}")


class OnlineChangeRefused(PartitionError):
    """PostgreSQL refused a step; its transaction was rolled back, and the steps before it stay."""

    def __init__(self, table: str, step: str, reason: str) -> None:
        self.table = table
        self.step = step
        self.reason = reason
        super().__init__(f"{table}: {step}: {reason}; mend that and run the change again, it resumes here")


class PreconditionFailed(PartitionError):
    """What a part of a change needs does not hold, or it was asked for too early; nothing was done."""

    def __init__(self, table: str, wanted: str, otherwise: str) -> None:
        self.table = table
        self.wanted = wanted
        self.otherwise = otherwise
        super().__init__(f"{table}: {wanted}: nothing was done: {otherwise}")


class ObjectNameTaken(PartitionError):
    """What a change makes would have a name that another object has; nothing was done."""

    def __init__(self, table: str, change: str, found: str) -> None:
        self.table = table
        self.change = change
        self.found = found
        super().__init__(
            f"{table}: {change}: nothing was done: the name is taken by {found}: give another name"
        )


class TableLocked(PartitionError):
    """A lock was not free in any attempt; nothing of the step was done."""

    def __init__(self, table: str, step: str, *, attempts: int, holders: Sequence[Blocker]) -> None:
        self.table = table
        self.step = step
        self.attempts = attempts
        self.holders = tuple(holders)
        by = "; ".join(map(str, holders)) or "no session that is still there"
        super().__init__(f"{table}: {step}: no lock in {attempts} attempts; in the way: {by}")


class NoSuchColumn(PartitionError):
    """The column that is to be changed is absent."""

    def __init__(self, table: str, column: str) -> None:
        self.table = table
        self.column = column
        super().__init__(f"{table} has no column {column}")


class ColumnInUse(PartitionError):
    """Views, policies, indexes, constraints and the like use a column, and would be lost with it."""

    def __init__(self, table: str, column: str, users: Collection[str]) -> None:
        self.table = table
        self.column = column
        self.users = tuple(users)
        super().__init__(
            f"{table}.{column} is used by {', '.join(users)}, which a swap of columns would lose: "
            f"drop them first and build them on the new column before the swap"
        )


class TriggersUnsupported(PartitionError):
    """Citus refuses triggers, so that the database cannot keep the new column itself."""

    def __init__(self, table: str) -> None:
        self.table = table
        super().__init__(
            f"{table}: Citus refuses triggers: let the application write both columns first, "
            f"then plan with dual_write='application'"
        )


class NoPrimaryKey(PartitionError):
    """A table without a primary key cannot be gone through in batches that resume."""

    def __init__(self, table: str) -> None:
        self.table = table
        super().__init__(f"{table} has no primary key: a backfill needs one to resume")
