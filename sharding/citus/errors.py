"""What can go wrong with Citus. Each error names the object and the way out."""

from collections.abc import Iterable

from sharding.errors import ShardingError


class CitusError(ShardingError):
    """Base of every error about Citus."""


class CitusRefused(CitusError):
    """Nothing was changed, because a check refused it."""


class NotOnCitus(CitusRefused):
    """The topology's backend is plain PostgreSQL."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        super().__init__(f'the tree\'s backend is {backend!r}, and this needs `backend = "citus"`')


class CitusMissing(CitusRefused):
    """The extension is not in the database that should be the coordinator."""

    def __init__(self, database: str, extension: str = "citus") -> None:
        self.database = database
        self.extension = extension
        super().__init__(
            f"{database}: the extension {extension} is not in this database: a superuser says "
            f"`CREATE EXTENSION {extension}` on the coordinator and on every worker (docs/citus.md)"
        )


class DistributionConflict(CitusRefused):
    """A table is distributed in another way than is declared."""

    def __init__(self, table: str, *, found: str, declared: str) -> None:
        self.table = table
        self.found = found
        self.declared = declared
        super().__init__(
            f"{table} is {found}, and should be {declared}: `SELECT undistribute_table('{table}')` on the "
            "coordinator, which copies its rows back, then upgrade again"
        )


class UnknownNode(CitusRefused):
    """There is no such node."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name = name
        self.known = tuple(known)
        super().__init__(f"Citus has no node {name!r}; it has {', '.join(self.known) or 'none'}")


class UnknownPlacement(CitusRefused):
    """There is no such shard, or no shard for a key."""

    def __init__(self, what: str, *, fix: str) -> None:
        self.what = what
        super().__init__(f"Citus has no {what}: {fix}")


class MoveRefused(CitusRefused):
    """A shard, or a node's shards, cannot be moved like this."""

    def __init__(self, what: str, reason: str) -> None:
        self.what = what
        self.reason = reason
        super().__init__(f"{what} is not moved: {reason}")


class ColumnarRefused(CitusRefused):
    """A month cannot be stored by column (or by row) now."""

    def __init__(self, partition: str, reason: str) -> None:
        self.partition = partition
        self.reason = reason
        super().__init__(f"{partition} stays as it is: {reason}")


class AdministratorNeeded(CitusRefused):
    """Citus lets only a superuser do this."""

    def __init__(self, what: str, *, role: str) -> None:
        self.what = what
        self.role = role
        super().__init__(f"Citus lets only a superuser {what}, and {role} is none: connect as one")


class RebalanceFailed(CitusError):
    """A background move of Citus ended badly; what had been moved before stays moved."""

    def __init__(self, state: str, messages: Iterable[str]) -> None:
        self.state = state
        self.messages = tuple(messages)
        said = "; ".join(self.messages) or "see citus_rebalance_status() on the coordinator"
        super().__init__(f"the rebalance ended as {state!r}: {said}")
