"""What can be wrong with an online change, each fault with its facts."""

from collections.abc import Collection, Sequence

from partitions.errors import Blocker, PartitionError


class OnlineChangeRefused(PartitionError):
    """PostgreSQL refused a step; its transaction was rolled back, and the steps before it stay."""

    def __init__(self, table: str, step: str, reason: str) -> None:
        self.table = table
        self.step = step
        self.reason = reason
        super().__init__(f"{table}: {step}: {reason}; mend that and run the change again, it resumes here")


class StepOutOfOrder(PartitionError):
    """What a part of a change needs does not hold, or it was asked for too early; nothing was done."""

    def __init__(self, table: str, wanted: str, otherwise: str) -> None:
        self.table = table
        self.wanted = wanted
        self.otherwise = otherwise
        super().__init__(f"{table}: {wanted}: nothing was done: {otherwise}")


class NameTaken(PartitionError):
    """What a change makes would have a name that another object has; nothing was done."""

    def __init__(self, table: str, change: str, found: str) -> None:
        self.table = table
        self.change = change
        self.found = found
        super().__init__(
            f"{table}: {change}: nothing was done: the name is taken by {found}: give another name"
        )


class TableBusy(PartitionError):
    """A lock was not free in any attempt; nothing of the step was done."""

    def __init__(self, table: str, step: str, *, attempts: int, holders: Sequence[Blocker]) -> None:
        self.table = table
        self.step = step
        self.attempts = attempts
        self.holders = tuple(holders)
        by = "; ".join(map(str, holders)) or "nobody who is still there"
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


class TriggersRefused(PartitionError):
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
