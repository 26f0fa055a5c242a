"""What autogenerate compares beyond alembic's own rules: partitions are data, groups and predicates schema.

It never proposes to drop a partition, a month that was detached and waits to be dropped, an index that a
partition has from its parent, or what an online change has made that is under way.
"""

from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from alembic.autogenerate.api import AutogenContext
from alembic.operations import MigrateOperation
from alembic.operations.ops import (
    CreateIndexOp,
    CreateTableOp,
    DropIndexOp,
    DropTableOp,
    ModifyTableOps,
    UpgradeOps,
)
from alembic.runtime.plugins import Plugin
from alembic.util import DispatchPriority, PriorityDispatchResult
from sqlalchemy import Connection, Index, MetaData, Table, text

from partitions.migration_ops.indexes import changed_predicates, columns_of, online, predicate_of
from partitions.migration_ops.operations import (
    CreatePartition,
    CreatePartitionedTable,
    RegroupPartitions,
    ReplacePartialIndex,
)
from partitions.migration_ops.standing import (
    Standing,
    check_partition_keys,
    is_month,
    lists,
    read_lists,
    read_standing,
    regroupings,
)
from partitions.online.backfill import PROGRESS_TABLE
from partitions.policy import Policy

IncludeName = Callable[[str | None, Any, MutableMapping[Any, Any]], bool]
POLICIES = "partition_policies"
"""The key of `MetaData.info` under which autogenerate finds the policies of the tables."""
PLUGINS = ("alembic.autogenerate.*", "partitions.migration_ops")


def ignore_undeclared_partitions(connection: Connection, metadata: MetaData) -> IncludeName:
    """Make alembic's `include_name`: it leaves out the partitions that the models do not declare.

    Months come and go by policy. `orders_hot` and `orders_done` are declared: they have indexes of their own.
    """
    found = connection.scalars(text("SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'"))
    undeclared = frozenset(found) - frozenset(metadata.tables)
    connection.commit()
    return lambda name, kind, _parents: not (kind == "table" and name in undeclared)


def compare_predicates(
    context: AutogenContext,
    modify_ops: ModifyTableOps,
    _schema: str | None,
    _name: str,
    conn_table: Table | None,
    metadata_table: Table | None,
) -> PriorityDispatchResult:
    """Find indexes whose predicate differs; alembic compares their columns only."""
    if context.connection is not None and conn_table is not None and metadata_table is not None:
        changed = frozenset(
            op.index_name for op in modify_ops.ops if isinstance(op, CreateIndexOp | DropIndexOp)
        )
        modify_ops.ops.extend(changed_predicates(context.connection, metadata_table, changed))
    return PriorityDispatchResult.CONTINUE


def compare_partitions(
    context: AutogenContext, upgrade_ops: UpgradeOps, _schemas: set[str | None]
) -> PriorityDispatchResult:
    """Turn what alembic found into what can be done to partitions, and compare the groups of values."""
    connection, metadata = context.connection, context.metadata
    if connection is None or not isinstance(metadata, MetaData):
        return PriorityDispatchResult.CONTINUE
    policies = tuple(metadata.info.get(POLICIES, ()))
    standing = read_standing(connection)
    check_partition_keys(metadata, standing)
    changes = list(regroupings(policies, read_lists(connection, policies, standing)))
    rewriter = _Rewriter(standing, metadata, policies, frozenset(_made(changes)))
    found = [*rewriter.rewrite(upgrade_ops.ops), *rewriter.new_groups(), *changes]
    upgrade_ops.ops[:] = sorted(found, key=rewriter.place)
    return PriorityDispatchResult.CONTINUE


def _made(changes: Iterable[RegroupPartitions]) -> Iterator[str]:
    return (name for change in changes for name in change.becomes if name not in change.was)


@dataclass(frozen=True, slots=True)
class _Rewriter:
    """Rewrites alembic's operations; `made` are the partitions that a regrouping makes."""

    standing: Standing
    metadata: MetaData
    policies: Sequence[Policy]
    made: frozenset[str]

    def rewrite(self, operations: Iterable[MigrateOperation]) -> Iterator[MigrateOperation]:
        for operation in operations:
            match operation:
                # Partitions and policies are those of the current schema.
                case CreateTableOp() | DropTableOp() | ModifyTableOps() if operation.schema is not None:
                    yield operation
                case CreateTableOp():
                    yield from self._created(operation)
                case DropTableOp() if self._stays(operation.table_name):
                    continue
                case ModifyTableOps():
                    yield from self._modified(operation)
                case _:
                    yield operation

    def new_groups(self) -> Iterator[CreatePartition]:
        """Give the partitions of tables that do not stand yet."""
        for policy in lists(self.policies):
            if policy.table in self.metadata.tables and policy.table not in self.standing.tables:
                for name, values in policy.groups.items():
                    yield CreatePartition(name, of=policy.table, values=sorted(values))

    def place(self, operation: MigrateOperation) -> int:
        """Order them: tables, their partitions, the rest, and last what needs the lock of a regrouping."""
        match operation:
            case CreateTableOp():
                return 0
            case CreatePartition():
                return 1
            case RegroupPartitions():
                return 3
            case ModifyTableOps() if operation.table_name in self.made:
                return 4
        return 2

    def _created(self, operation: CreateTableOp) -> Iterator[CreateTableOp]:
        if self._group_of(operation.table_name) is not None:
            return
        if operation.kw.get("postgresql_partition_by"):
            operation = CreatePartitionedTable.from_table(operation.to_table())
        yield operation

    def _modified(self, operation: ModifyTableOps) -> Iterator[ModifyTableOps]:
        name = operation.table_name
        if name not in self.metadata.tables and self._stays(name):
            return
        kept = [self._index(change) for change in operation.ops if self._is_own(name, change)]
        if kept:
            yield ModifyTableOps(name, kept, schema=operation.schema)

    def _index(self, change: MigrateOperation) -> MigrateOperation:
        return online(change, self.standing) if isinstance(change, CreateIndexOp | DropIndexOp) else change

    def _is_own(self, table: str, change: MigrateOperation) -> bool:
        """Tell whether a change is the table's own: a partition has its columns from its parent."""
        if (table, getattr(change, "column_name", None)) in self.standing.under_way:
            return False  # an online change has made it so, and is not done yet
        if isinstance(change, DropIndexOp):
            return change.index_name not in self.standing.inherited_indexes
        if isinstance(change, ReplacePartialIndex):
            return change.name not in self.standing.inherited_indexes
        parent = (
            self.metadata.tables[table].info.get("partition_of") if table in self.metadata.tables else None
        )
        if parent is None:
            return True
        if isinstance(change, CreateIndexOp):
            index = change.to_index()
            # Declared by a copy of the parent's table, which has the parent's indexes as well.
            return _definition(index) not in map(_definition, self.metadata.tables[parent].indexes)
        return change.__class__.__module__ != "alembic.operations.ops"

    def _stays(self, table: str) -> bool:
        return table in self.standing.partitions or table == PROGRESS_TABLE or is_month(table, self.policies)

    def _group_of(self, table: str) -> str | None:
        return next((policy.table for policy in lists(self.policies) if table in policy.groups), None)


def _definition(index: Index) -> tuple[list[str], str]:
    return columns_of(index), predicate_of(index)


# alembic keeps a registry of plugins for the process, and loads env.py anew for each command.
_plugin = Plugin("partitions.migration_ops")
_plugin.add_autogenerate_comparator(compare_predicates, "table", "predicates")
_plugin.add_autogenerate_comparator(
    compare_partitions, "schema", "partitions", priority=DispatchPriority.LAST
)
