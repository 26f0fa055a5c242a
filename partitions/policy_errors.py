"""The errors about policies that cannot be, each with its facts."""

from collections.abc import Sequence
from datetime import timedelta

from partitions.errors import PartitionError


class PolicyError(PartitionError):
    """A policy that cannot be; each fault is a subclass."""


class ValueInTwoGroups(PolicyError):
    """A row of that value would belong to two partitions."""

    def __init__(self, table: str, value: str, one: str, other: str) -> None:
        self.table = table
        self.value = value
        self.groups = (one, other)
        super().__init__(f"{table}: {value} is in {one} and in {other}: leave it in one of the groups")


class EmptyGroup(PolicyError):
    """A LIST partition has one value at least."""

    def __init__(self, table: str, partition: str) -> None:
        self.table = table
        self.partition = partition
        super().__init__(f"{table}: {partition} has no values: give it one, or leave the group out")


class NameTooLong(PolicyError):
    """PostgreSQL would cut the name off, and two partitions would have one."""

    def __init__(self, table: str, partition: str) -> None:
        self.table = table
        self.partition = partition
        super().__init__(f"{table}: {partition} has more than 63 bytes: give the table a shorter name")


class NegativeMonths(PolicyError):
    """A number of months is less than none."""

    def __init__(self, table: str, months: int) -> None:
        self.table = table
        self.months = months
        super().__init__(
            f"{table}: {months} months is less than none: months_ahead and retention are 0 or more"
        )


class RetentionShorterThanGrace(PolicyError):
    """A month would be detached before the last of its rows have come."""

    def __init__(self, table: str, *, months: int, grace: timedelta) -> None:
        self.table = table
        self.months = months
        self.grace = grace
        super().__init__(
            f"{table}: a retention of {months} months is shorter than the grace period of {grace.days} days: "
            f"a month would leave before its last rows have come; keep {-(-grace.days // 28)} months at least"
        )


class RangeKeyUnsupported(PolicyError):
    """Months cannot be made of the key of a RANGE table."""

    def __init__(self, table: str, key: str, reason: str) -> None:
        self.table = table
        self.key = key
        super().__init__(
            f"{table}: no months can be made of the RANGE key {key}: {reason}; it must be an integer with "
            f"key_at=, a date, a timestamp or a timestamp with time zone"
        )


class TableNotDeclared(PolicyError):
    """A policy is about a table that the metadata does not have."""

    def __init__(self, table: str, *, there: Sequence[str]) -> None:
        self.table = table
        super().__init__(
            f"a policy is about {table}, and the metadata has no such table; "
            f"it has {', '.join(there) or 'none'}: import its model first, or correct the name"
        )


class ColumnNotDeclared(PolicyError):
    """A policy is about a column that its table does not have."""

    def __init__(self, table: str, column: str, *, use: str) -> None:
        self.table = table
        self.column = column
        super().__init__(f"{table} has no column {column}, which its policy names as {use}")


class KeyNotInPrimaryKey(PolicyError):
    """PostgreSQL wants the partition key in each unique key of a partitioned table."""

    def __init__(self, table: str, key: str, primary_key: Sequence[str]) -> None:
        self.table = table
        self.key = key
        self.primary_key = tuple(primary_key)
        wanted = ", ".join((*primary_key, key))
        super().__init__(
            f"{table}: the partition key {key} is not in the primary key ({', '.join(primary_key)}), which "
            f"PostgreSQL wants: make it ({wanted})"
        )


class PartitionKeyMismatch(PolicyError):
    """A model says another `postgresql_partition_by` than its policy."""

    def __init__(self, table: str, *, model: str, policy: str) -> None:
        self.table = table
        super().__init__(f"{table}: its model says {model}, its policy {policy}: make them alike")


class LinkDiffers(PolicyError):
    """The columns by which a table belongs to its parent are not as many as name a row of the parent."""

    def __init__(self, table: str, key: Sequence[str], *, parent: str, row_id: Sequence[str]) -> None:
        self.table = table
        self.key = tuple(key)
        super().__init__(
            f"{table} is linked by ({', '.join(key)}), but a row of {parent} is named by "
            f"({', '.join(row_id)}): name the columns that hold these, in this order"
        )


class RangeColumnTaken(PolicyError):
    """The column that is to take the parent's range key has values of the child's own."""

    def __init__(self, child: str, archive: str, column: str) -> None:
        self.child = child
        self.archive = archive
        self.column = column
        super().__init__(
            f"{child} has a column {column} of its own, whose values would be lost: add another column to "
            f"{archive} for the parent's range key, and name that"
        )


class ChildrenOutliveParent(PolicyError):
    """With the retention of an archive its months go, and rows of a child would stay without a parent."""

    def __init__(self, archive: str, child: str, reason: str) -> None:
        self.archive = archive
        self.child = child
        super().__init__(
            f"{archive} has a retention, and rows of {child} would outlive theirs in it: {reason}"
        )


class DuplicatePolicy(PolicyError):
    """Two policies are about one table."""

    def __init__(self, table: str) -> None:
        self.table = table
        super().__init__(f"{table} has two policies: declare one")
