"""The operations: `op.create_partition(...)` and its like, each a value that knows its SQL and its inverse.

Every one waits for its locks `lock_timeout_seconds` at most and then fails with nothing changed.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

from alembic.autogenerate import renderers
from alembic.autogenerate.api import AutogenContext
from alembic.operations import MigrateOperation, Operations
from alembic.operations.ops import CreateTableOp
from sqlalchemy import Table
from sqlalchemy.schema import SchemaItem

from partitions.errors import PartitionError
from partitions.indexes import build_concurrently, drop_concurrently
from partitions.migration_ops import partition_indexes
from partitions.migration_ops import statements as sql
from partitions.migration_ops.replace_index import Replacement, replace_index
from partitions.migration_ops.runner import (
    AutocommitAction,
    print_in_autocommit,
    run_in_autocommit,
    run_in_transaction,
    script_of,
)
from partitions.migration_ops.statements import proofs, regroup
from partitions.sql import RelationName, qualified
from partitions.steps import LockTimeouts, SqlStep


class PredicateMissing(PartitionError):
    """A partial index has no predicate: it would be an index of all rows."""

    def __init__(self, index: str) -> None:
        self.index = index
        super().__init__(f"index {index} has no predicate: use op.create_index for an index of all rows")


P = TypeVar("P", bound="PartitionOperation")


@dataclass(frozen=True)
class PartitionOperation(MigrateOperation):
    """Base of the operations here: the first field is given by position, the others by keyword."""

    verb: ClassVar[str]

    def statements(self) -> tuple[str, ...]:
        """Render what is done in the transaction of the migration."""
        return ()

    def autocommit_steps(self) -> tuple[SqlStep, ...]:
        """Render what is done before, outside of it: killed, it is done again, or finished."""
        return ()

    @property
    def timeouts(self) -> LockTimeouts:
        """How long it may wait for a lock."""
        return LockTimeouts(lock_timeout_seconds=getattr(self, "lock_timeout_seconds", 3.0))

    def run(self, operations: Operations) -> None:
        """Do it, or print it when alembic was called with `--sql`."""
        if parts := self.autocommit_steps():
            if operations.get_context().as_sql:
                print_in_autocommit(operations, script_of(parts, self.timeouts), self.timeouts)
            else:
                name = str(getattr(self, fields(self)[0].name))
                run_in_autocommit(
                    operations, AutocommitAction(table=name, summary=self.verb, parts=parts), self.timeouts
                )
        if statements := self.statements():
            run_in_transaction(operations, statements, self.timeouts)

    def _as(self, kind: type[P]) -> P:
        """Return the operation of another class that has the fields of this one."""
        return kind(**vars(self))

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Describe the operation for `alembic check`."""
        return (self.verb, *(getattr(self, field.name) for field in fields(self)))


def _operation(operation: type[P]) -> type[P]:
    """Make `op.VERB(...)` of a class; it takes what the class takes."""

    def construct(cls: Callable[..., P], operations: Operations, *args: Any, **options: Any) -> Any:
        return operations.invoke(cls(*args, **options))

    construct.__name__ = operation.verb
    setattr(operation, operation.verb, classmethod(construct))
    return Operations.register_operation(operation.verb)(operation)


@dataclass(frozen=True)
class _BoundedPartition(PartitionOperation):
    """A partition with its bound: either `values`, or `keys` from the first to the one behind the last."""

    name: str
    of: str
    values: Sequence[str] | None = None
    keys: tuple[sql.Key, sql.Key] | None = None
    lock_timeout_seconds: float = 3.0

    @property
    def bound(self) -> sql.Bound:
        """The bound of the partition."""
        return sql.bound_of(self.name, self.values, self.keys)


@dataclass(frozen=True)
class _AttachedPartition(_BoundedPartition):
    key: str | None = None
    concurrently: bool = False


@_operation
@dataclass(frozen=True)
class CreatePartitionOp(_BoundedPartition):
    """Create an empty partition and attach it, by `values` or by `keys` (start, end)."""

    verb = "create_partition"

    def statements(self) -> tuple[str, ...]:
        """Render the SQL."""
        return sql.create(self.name, self.of, self.bound)

    def reverse(self) -> "DropPartitionOp":
        """Drop it again; rows make that fail."""
        return self._as(DropPartitionOp)


@_operation
@dataclass(frozen=True)
class DropPartitionOp(_BoundedPartition):
    """Detach a partition and drop it. One that has rows is refused."""

    verb = "drop_partition"

    def statements(self) -> tuple[str, ...]:
        """Render the SQL."""
        return sql.drop(self.name, self.of)

    def reverse(self) -> CreatePartitionOp:
        """Create it again, empty."""
        return self._as(CreatePartitionOp)


@_operation
@dataclass(frozen=True)
class AttachPartitionOp(_AttachedPartition):
    """Attach a table that may have rows. With `key`, the rows are scanned before the parent is locked."""

    verb = "attach_partition"

    def statements(self) -> tuple[str, ...]:
        """Render the SQL; ATTACH never stops readers or writers, so `concurrently` is for its inverse."""
        return sql.attach(self.name, self.of, self.bound, self.key)

    def reverse(self) -> "DetachPartitionOp":
        """Detach it again."""
        return self._as(DetachPartitionOp)


@_operation
@dataclass(frozen=True)
class DetachPartitionOp(_AttachedPartition):
    """Detach a partition, and keep it as a table. `concurrently` blocks no query, but is no transaction."""

    verb = "detach_partition"

    def statements(self) -> tuple[str, ...]:
        """Render the SQL."""
        return () if self.concurrently else (sql.detach(self.name, self.of),)

    def autocommit_steps(self) -> tuple[SqlStep, ...]:
        """Render the SQL."""
        if not self.concurrently:
            return ()
        return sql.detach_concurrently(self.name, self.of, self.bound)

    def reverse(self) -> AttachPartitionOp:
        """Attach it again."""
        return self._as(AttachPartitionOp)


@dataclass(frozen=True)
class _PartialIndex(PartitionOperation, ABC):
    name: str
    table: str
    columns: Sequence[str]
    where: str
    unique: bool = False
    concurrently: bool = False
    schema: str | None = None
    lock_timeout_seconds: float = 3.0

    def __post_init__(self) -> None:
        if not self.where:
            raise PredicateMissing(self.name)

    def statements(self) -> tuple[str, ...]:
        """Render what stops writers, in the transaction."""
        return () if self.concurrently else (self.plain_statement(),)

    def autocommit_steps(self) -> tuple[SqlStep, ...]:
        """Render what blocks no query, outside of it."""
        return self.concurrent_steps() if self.concurrently else ()

    @abstractmethod
    def plain_statement(self) -> str:
        """Render the statement that stops writers."""

    @abstractmethod
    def concurrent_steps(self) -> tuple[SqlStep, ...]:
        """Render the steps that block no query."""


@_operation
@dataclass(frozen=True)
class CreatePartialIndexOp(_PartialIndex):
    """Create an index on the rows `where` something holds. `concurrently` stops no writer."""

    verb = "create_partial_index"

    def plain_statement(self) -> str:
        """Render the statement that stops writers."""
        described = (self.name, self.table, self.columns, self.where)
        return sql.index(*described, unique=self.unique, schema=self.schema)

    def concurrent_steps(self) -> tuple[SqlStep, ...]:
        """Render the steps that block no query."""
        definition = sql.definition(self.columns, self.where)
        return build_concurrently(self.name, self.table, definition, unique=self.unique, schema=self.schema)

    def reverse(self) -> "DropPartialIndexOp":
        """Drop it again."""
        return self._as(DropPartialIndexOp)


@_operation
@dataclass(frozen=True)
class DropPartialIndexOp(_PartialIndex):
    """Drop a partial index; its definition is there so that a downgrade can make it again."""

    verb = "drop_partial_index"

    def plain_statement(self) -> str:
        """Render the statement that stops writers."""
        return f"DROP INDEX {qualified(self.name, self.schema)}"

    def concurrent_steps(self) -> tuple[SqlStep, ...]:
        """Render the steps that block no query."""
        return (drop_concurrently(self.name, self.schema),)

    def reverse(self) -> CreatePartialIndexOp:
        """Create it again."""
        return self._as(CreatePartialIndexOp)


@_operation
@dataclass(frozen=True)
class ReplacePartialIndexOp(PartitionOperation):
    """Change an index's predicate from `existing_where` to `where`, None for all rows; all else of it stays.

    The old index serves until the new one is valid and has its name. That of a partitioned table is built on
    each partition. `columns` and `unique` are for a database that has no such index: they make it.
    """

    verb = "replace_partial_index"
    name: str
    table: str
    columns: Sequence[str] = ()
    where: str | None = None
    unique: bool = False
    concurrently: bool = False
    existing_where: str | None = None
    schema: str | None = None
    lock_timeout_seconds: float = 3.0

    def run(self, operations: Operations) -> None:
        """Build the index anew as the catalogue describes it; a script reads the catalogue by itself."""
        otherwise = sql.index(
            self.name,
            self.table,
            self.columns,
            self.where,
            unique=self.unique,
            schema=self.schema,
            how="CONCURRENTLY " if self.concurrently else "",
        )
        replacement = Replacement(
            index=self.name,
            table=self.table,
            schema=self.schema,
            where=self.where,
            concurrently=self.concurrently,
            otherwise=otherwise if self.columns else None,
        )
        replace_index(operations, replacement, self.timeouts)

    def reverse(self) -> "ReplacePartialIndexOp":
        """Return the replacement by the old predicate."""
        return replace(self, where=self.existing_where, existing_where=self.where)


@dataclass(frozen=True)
class _IndexOnPartitions(PartitionOperation):
    name: str
    table: str
    columns: Sequence[str]
    where: str | None = None
    unique: bool = False
    lock_timeout_seconds: float = 3.0


@_operation
@dataclass(frozen=True)
class CreateIndexOnPartitionsOp(_IndexOnPartitions):
    """Create an index on a partitioned table and on each partition, concurrently."""

    verb = "create_index_on_partitions"

    def run(self, operations: Operations) -> None:
        """Build it on the partitions that stand; a script looks for them by itself."""
        described = (self.name, self.table, self.columns, self.where)
        if operations.get_context().as_sql:
            lines = partition_indexes.script(*described, unique=self.unique, timeouts=self.timeouts)
            print_in_autocommit(operations, lines, self.timeouts)
            return
        partitions = partition_indexes.partitions_of(operations.get_bind(), self.table)
        action = partition_indexes.create_index(*described, unique=self.unique, partitions=partitions)
        run_in_autocommit(operations, action, self.timeouts)

    def reverse(self) -> "DropIndexOnPartitionsOp":
        """Drop it everywhere."""
        return self._as(DropIndexOnPartitionsOp)


@_operation
@dataclass(frozen=True)
class DropIndexOnPartitionsOp(_IndexOnPartitions):
    """Drop an index of a partitioned table and of each partition, under a short lock of them all."""

    verb = "drop_index_on_partitions"

    def statements(self) -> tuple[str, ...]:
        """Render the SQL."""
        return (f"DROP INDEX {RelationName.of(self.table).beside(self.name)}",)

    def reverse(self) -> CreateIndexOnPartitionsOp:
        """Create it again everywhere."""
        return self._as(CreateIndexOnPartitionsOp)


@_operation
@dataclass(frozen=True)
class RegroupPartitionsOp(PartitionOperation):
    """Change the values of partitions of a LIST table, and move the rows whose value moved.

    Make it the last operation of its migration: the table is locked until that ends. A partition that is not
    in `new` stays as an empty table, unless `drop_emptied`.
    """

    verb = "regroup_partitions"
    table: str
    key: str
    existing: Mapping[str, Sequence[str]]
    new: Mapping[str, Sequence[str]]
    max_rows: int = 10_000
    drop_emptied: bool = False
    lock_timeout_seconds: float = 3.0

    def autocommit_steps(self) -> tuple[SqlStep, ...]:
        """Render the proofs of the new bounds."""
        return proofs(self.key, self.existing, self.new)

    def statements(self) -> tuple[str, ...]:
        """Render the SQL."""
        return regroup(
            self.table,
            self.key,
            self.existing,
            self.new,
            max_rows=self.max_rows,
            drop_emptied=self.drop_emptied,
        )

    def reverse(self) -> "RegroupPartitionsOp":
        """Move the values and their rows back; a partition that was made for them is dropped, empty."""
        is_new = any(name not in self.existing for name in self.new)
        return replace(self, existing=self.new, new=self.existing, drop_emptied=is_new)


@Operations.register_operation("create_partitioned_table")
class CreatePartitionedTableOp(CreateTableOp):
    """Create a partitioned table, without partitions."""

    @classmethod
    def create_partitioned_table(
        cls, operations: Operations, name: str, *items: SchemaItem, partition_by: str, **options: Any
    ) -> Table:
        """Create it as `op.create_table` does.

        Parameters:
            operations: alembic's.
            name: the table.
            items: columns and constraints; a unique key must hold the partition key.
            partition_by: `LIST (status)` or `RANGE (order_id)`.
            options: whatever `op.create_table` takes.
        """
        table: Table = operations.invoke(cls(name, items, postgresql_partition_by=partition_by, **options))
        return table


@Operations.implementation_for(PartitionOperation)
def _run(operations: Operations, operation: PartitionOperation) -> None:
    operation.run(operations)


@renderers.dispatch_for(PartitionOperation)
def _render(_context: AutogenContext, operation: PartitionOperation) -> str:
    first, *rest = fields(operation)
    arguments = [repr(getattr(operation, first.name))]
    for field in rest:
        value = getattr(operation, field.name)
        if field.default is MISSING or value != field.default:
            arguments.append(f"{field.name}={value!r}")
    body = "".join(f"    {argument},\n" for argument in arguments)
    return f"op.{operation.verb}(\n{body})"


@renderers.dispatch_for(CreatePartitionedTableOp)
def _render_table(context: AutogenContext, operation: CreatePartitionedTableOp) -> str:
    as_table = CreateTableOp.from_table(operation.to_table())
    partition_by = as_table.kw.pop("postgresql_partition_by")
    as_table.info = {}
    rendered = renderers.dispatch(CreateTableOp)(context, as_table)
    assert isinstance(rendered, str)
    called = rendered.replace("create_table(", "create_partitioned_table(", 1)
    return f"{called.removesuffix(chr(10) + ')')},\npartition_by={partition_by!r}\n)"
