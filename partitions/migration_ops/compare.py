"""What autogenerate compares beyond alembic's own rules: partitions are data, groups and predicates schema.

It never proposes to drop a partition, a month that was detached and waits to be dropped, an index that a
partition has from its parent, or what an online change has made that is under way.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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
from sqlalchemy import Connection, Index, MetaData, Table, TextClause, text
from sqlalchemy.dialects import postgresql

from partitions.declare import PARTITION_OF, POLICIES
from partitions.deparse import predicate_sql, same_predicates
from partitions.migration_ops.existing_schema import (
    SCHEMA,
    ExistingSchema,
    check_partition_keys,
    is_month,
    lists,
    name_of,
    read_existing_schema,
    read_lists,
    regroupings,
)
from partitions.migration_ops.operations import (
    CreateIndexOnPartitionsOp,
    CreatePartialIndexOp,
    CreatePartitionedTableOp,
    CreatePartitionOp,
    DropIndexOnPartitionsOp,
    DropPartialIndexOp,
    RegroupPartitionsOp,
    ReplacePartialIndexOp,
)
from partitions.models import table_name
from partitions.online.backfill import PROGRESS_TABLE
from partitions.policy import Policy
from partitions.sql import RelationName, beside, literal, regclass
from partitions.steps import do_block

# With this style of parameters % is a sign like any other.
_DIALECT = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]

_SAME = "mes_storage.same_predicate"


def predicate_of(index: Index, *, reflected: bool = False) -> str:
    """Render an index's predicate; an empty text when it has none.

    Parameters:
        index: the index.
        reflected: SQLAlchemy read it in the database: a colon in its text is no parameter.
    """
    where = index.dialect_options["postgresql"].get("where")
    return "" if where is None else _render(where, reflected=reflected).strip()


def columns_of(index: Index, *, reflected: bool = False) -> list[str]:
    """Render an index's columns and expressions, with their order."""
    return [_render(expression, reflected=reflected) for expression in index.expressions]


def _render(clause: Any, *, reflected: bool) -> str:
    if isinstance(clause, str):
        return clause
    if reflected and isinstance(clause, TextClause):
        return clause.text
    options = {"literal_binds": True, "include_table": False}
    return str(clause.compile(dialect=_DIALECT, compile_kwargs=options))


def changed_predicates(
    connection: Connection, table: Table, changed: frozenset[str | None]
) -> list[ReplacePartialIndexOp]:
    """Compare the predicates of a table's indexes, which alembic does not.

    Parameters:
        connection: to the database that has the table.
        table: as it is declared.
        changed: the indexes which alembic found to differ otherwise: it makes those anew.
    """
    existing = _read_predicates(connection, table)
    declared = {str(index.name): predicate_of(index) for index in table.indexes if index.name not in changed}
    return [
        ReplacePartialIndexOp(
            name,
            table=table.name,
            where=where or None,
            concurrently=True,
            existing_where=_legible(connection, table, *existing[name]) or None,
            schema=table.schema,
        )
        for name, where in sorted(declared.items())
        if name in existing
        and where not in existing[name]
        and not _same(connection, table, where, existing[name][0])
    ]


def _read_predicates(connection: Connection, table: Table) -> Mapping[str, tuple[str, str]]:
    """Read the predicates of a table's indexes, as PostgreSQL prints them: whole, and for a reader."""
    query = text(f"""
        SELECT relname, {predicate_sql("pg_index")} AS whole,
               coalesce(pg_get_expr(indpred, indrelid, true), '') AS pretty
        FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
        WHERE indrelid = {regclass(table.name, table.schema).replace(":", chr(92) + ":")}
    """)
    return {row.relname: (row.whole, row.pretty) for row in connection.execute(query)}


def _legible(connection: Connection, table: Table, whole: str, pretty: str) -> str:
    """Choose what a revision says: printed for a reader, a predicate may lack parentheses that matter."""
    return pretty if _same(connection, table, pretty, whole) else whole


def _same(connection: Connection, table: Table, one: str, existing: str) -> bool:
    """Return whether PostgreSQL reads two predicates as the same; `one` may need what is yet to be added."""
    if not one or not existing:
        return one == existing
    candidates = f"SELECT {literal(existing)}"
    find = same_predicates(table.name, table.schema, one, candidates, setting=_SAME, may_lack=True)
    connection.exec_driver_sql(do_block(find), execution_options={"no_parameters": True})
    query = f"SELECT current_setting('{_SAME}')::text[]"
    return existing in connection.exec_driver_sql(query).scalar_one()


def online(operation: CreateIndexOp | DropIndexOp, existing: ExistingSchema) -> MigrateOperation:
    """Return the operation that does the same without stopping writers; others stay as alembic made them."""
    creates = isinstance(operation, CreateIndexOp)
    index = operation.to_index()
    name, where = operation.table_name or "", predicate_of(index, reflected=not creates)
    table = RelationName(name, operation.schema).text
    if not _is_simple(operation):
        return operation
    known: dict[str, Any] = {
        "columns": columns_of(index, reflected=not creates),
        "unique": bool(index.unique),
    }
    if table in existing.keys:
        on_all = CreateIndexOnPartitionsOp if creates else DropIndexOnPartitionsOp
        return on_all(str(index.name), table=table, where=where or None, **known)
    if where:
        partial = CreatePartialIndexOp if creates else DropPartialIndexOp
        known |= {"table": name, "schema": operation.schema}
        return partial(str(index.name), where=where, concurrently=table in existing.tables, **known)
    return operation


def _is_simple(operation: CreateIndexOp | DropIndexOp) -> bool:
    """Return whether the operations here can say all that the index is."""
    others = (value for name, value in operation.kw.items() if name not in {"postgresql_where", "unique"})
    return not any(others)


IncludeName = Callable[[str | None, Any, MutableMapping[Any, Any]], bool]
PLUGINS = ("alembic.autogenerate.*", "partitions.migration_ops")


def ignore_undeclared_partitions(connection: Connection, metadata: MetaData) -> IncludeName:
    """Make alembic's `include_name`: it leaves out the partitions that the models do not declare.

    Months come and go by policy. Partitions that have indexes of their own are declared. With
    `include_schemas`, schemas of others are left out too.
    """
    undeclared = frozenset(map(name_of, connection.execute(_PARTITIONS))) - frozenset(
        map(table_name, metadata.tables.values())
    )
    schemas = {table.schema for table in metadata.tables.values()}
    connection.commit()

    def include(name: str | None, kind: str | None, parents: MutableMapping[Any, Any]) -> bool:
        if kind == "schema":
            return name is None or name in schemas
        return kind != "table" or RelationName(name or "", parents.get("schema_name")).text not in undeclared

    return include


_PARTITIONS = text(f"""
    SELECT relname AS name, {SCHEMA} FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relispartition AND relkind = 'r'
""")


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
    existing = read_existing_schema(connection)
    check_partition_keys(metadata, existing)
    changes = list(regroupings(policies, read_lists(connection, policies, existing)))
    rewriter = _Rewriter(existing, metadata, policies, frozenset(_made(changes)))
    found = [*rewriter.rewrite(upgrade_ops.ops), *rewriter.new_groups(), *changes]
    upgrade_ops.ops[:] = sorted(found, key=rewriter.place)
    return PriorityDispatchResult.CONTINUE


def _made(changes: Iterable[RegroupPartitionsOp]) -> Iterator[str]:
    return (name for change in changes for name in change.new if name not in change.existing)


@dataclass(frozen=True)
class _Rewriter:
    """Rewrites alembic's operations; `made` are the partitions that a regrouping makes."""

    existing: ExistingSchema
    metadata: MetaData
    policies: Sequence[Policy]
    made: frozenset[str]

    @cached_property
    def declared(self) -> Mapping[str, Table]:
        """The tables of the metadata, by their names as policies have them."""
        return {table_name(table): table for table in self.metadata.tables.values()}

    def rewrite(self, operations: Iterable[MigrateOperation]) -> Iterator[MigrateOperation]:
        for operation in operations:
            match operation:
                case CreateTableOp():
                    yield from self._created(operation)
                case DropTableOp() if self._stays(_table_of(operation)):
                    continue
                case ModifyTableOps():
                    yield from self._modified(operation)
                case _:
                    yield operation

    def new_groups(self) -> Iterator[CreatePartitionOp]:
        """Return the partitions of tables that do not stand yet."""
        for policy in lists(self.policies):
            if policy.table in self.declared and policy.table not in self.existing.tables:
                for name, values in policy.groups.items():
                    yield CreatePartitionOp(name, of=policy.table, values=sorted(values))

    def place(self, operation: MigrateOperation) -> int:
        """Order them: tables, their partitions, the rest, and last what needs the lock of a regrouping."""
        match operation:
            case CreateTableOp():
                return 0
            case CreatePartitionOp():
                return 1
            case RegroupPartitionsOp():
                return 3
            case ModifyTableOps() if _table_of(operation) in self.made:
                return 4
        return 2

    def _created(self, operation: CreateTableOp) -> Iterator[CreateTableOp]:
        if self._group_of(_table_of(operation)) is not None:
            return
        if operation.kw.get("postgresql_partition_by"):
            operation = CreatePartitionedTableOp.from_table(operation.to_table())
        yield operation

    def _modified(self, operation: ModifyTableOps) -> Iterator[ModifyTableOps]:
        name = _table_of(operation)
        if name not in self.declared and self._stays(name):
            return
        kept = [self._index(change) for change in operation.ops if self._is_own(name, change)]
        if kept:
            yield ModifyTableOps(operation.table_name, kept, schema=operation.schema)

    def _index(self, change: MigrateOperation) -> MigrateOperation:
        return online(change, self.existing) if isinstance(change, CreateIndexOp | DropIndexOp) else change

    def _is_own(self, table: str, change: MigrateOperation) -> bool:
        """Return whether a change is the table's own: a partition has its columns from its parent."""
        if (table, getattr(change, "column_name", None)) in self.existing.under_way:
            return False  # an online change has made it so, and is not done yet
        if isinstance(change, DropIndexOp):
            return beside(table, str(change.index_name)) not in self.existing.inherited_indexes
        if isinstance(change, ReplacePartialIndexOp):
            return beside(table, change.name) not in self.existing.inherited_indexes
        parent = self.declared[table].info.get(PARTITION_OF) if table in self.declared else None
        if parent is None:
            return True
        if isinstance(change, CreateIndexOp):
            index = change.to_index()
            # Declared by a copy of the parent's table, which has the parent's indexes as well.
            return _definition(index) not in map(_definition, self.metadata.tables[parent].indexes)
        return change.__class__.__module__ != "alembic.operations.ops"

    def _stays(self, table: str) -> bool:
        return table in self.existing.partitions or table == PROGRESS_TABLE or is_month(table, self.policies)

    def _group_of(self, table: str) -> str | None:
        return next((policy.table for policy in lists(self.policies) if table in policy.groups), None)


def _table_of(operation: CreateTableOp | DropTableOp | ModifyTableOps) -> str:
    return RelationName(operation.table_name, operation.schema).text


def _definition(index: Index) -> tuple[list[str], str]:
    return columns_of(index), predicate_of(index)


# alembic keeps a registry of plugins for the process, and loads env.py anew for each command.
_plugin = Plugin("partitions.migration_ops")
_plugin.add_autogenerate_comparator(compare_predicates, "table", "predicates")
_plugin.add_autogenerate_comparator(
    compare_partitions, "schema", "partitions", priority=DispatchPriority.LAST
)
