"""What can be wrong with partitions, each fault with its facts."""

from collections.abc import Collection


class PartitionError(Exception):
    """Base of every error that this package raises."""


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


class PartitionOverlap(PartitionError):
    """A partition covers a part of a month, so that the month cannot be created."""

    def __init__(self, table: str, partition: str, month: str) -> None:
        self.table = table
        self.partition = partition
        self.month = month
        super().__init__(
            f"{table}: partition {partition} covers a part of {month} only; split or detach it first"
        )


class ActionFailed(PartitionError):
    """PostgreSQL refused an action; its transaction was rolled back."""

    def __init__(self, action: str, reason: str) -> None:
        self.action = action
        self.reason = reason
        super().__init__(f"{action}: {reason}")


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
