"""Alembic operations for the guard of a shard, and an autogenerate plugin that knows it.

The guard's functions are the library's, in every database of a sharded tree (`sharding.schema`). A table with
a shard key has a CHECK of its own, which is a revision's:

    op.create_shard_guard("payments", key="tenant_id", version=1)

It needs alembic, which the rest of `sharding` does not: `pip install 'mes-storage[alembic]'`. Importing it
once, in `env.py` or in a migration, is enough for the operations to exist; `ops.migrate:script` does.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, MetaData, text

from partitions.errors import AlembicMissing
from partitions.sql import identifier, literal, qualified
from sharding.errors import ShardingError
from sharding.keys import is_partition, shard_key_of
from sharding.ownership import CHECK_NAME

try:
    from alembic.autogenerate import renderers
    from alembic.autogenerate.api import AutogenContext
    from alembic.operations import MigrateOperation, Operations
    from alembic.operations.ops import UpgradeOps
    from alembic.runtime.plugins import Plugin
    from alembic.util import DispatchPriority, PriorityDispatchResult
except ModuleNotFoundError as error:
    raise AlembicMissing from error

PLUGINS = ("sharding.migration_ops",)
"""For `context.configure(autogenerate_plugins=...)` of a sharded tree."""

NEWEST_GUARD = 1
"""The newest version of the guard's CHECK. A revision names the one that it was written for."""


class UnknownGuardVersion(ShardingError):
    """A revision wants a guard that this version of the library does not know."""

    def __init__(self, table: str, version: int) -> None:
        self.table = table
        self.version = version
        super().__init__(
            f"the guard of {table} is of version {version}, and this library knows {NEWEST_GUARD}: "
            "use the release that wrote the revision"
        )


@dataclass(frozen=True)
class ShardGuard(MigrateOperation):
    """Base of the two operations: a table, its shard key, and the version of the guard's CHECK."""

    table: str
    key: str | None
    version: int = 1
    schema: str | None = None
    lock_timeout_seconds: float = 3.0

    def __post_init__(self) -> None:
        if self.version not in range(1, NEWEST_GUARD + 1):
            raise UnknownGuardVersion(self.table, self.version)

    @property
    def name(self) -> str:
        """The table as it stands in SQL."""
        return qualified(self.table, self.schema)

    def timeout(self) -> str:
        """Return the statement that bounds the wait for the table's lock."""
        return f"SET LOCAL lock_timeout = {round(self.lock_timeout_seconds * 1000)}"

    def to_diff_tuple(self) -> tuple[Any, ...]:
        """Describe the operation for `alembic check`."""
        return (type(self).__name__, self.table, self.key, self.version, self.schema)


@Operations.register_operation("create_shard_guard")
class CreateShardGuardOp(ShardGuard):
    """Have a table refuse the rows that belong to another shard.

    The rows that it has are not checked, then or later: `mesctl shards check` looks at them.
    """

    @classmethod
    def create_shard_guard(
        cls,
        operations: Operations,
        table: str,
        *,
        key: str,
        version: int = 1,
        schema: str | None = None,
        lock_timeout_seconds: float = 3.0,
    ) -> None:
        """Guard a table.

        Parameters:
            operations: alembic's.
            table: the table; of a partitioned one, its partitions too.
            key: its shard key, an int8 column.
            version: of the guard's CHECK, as it was when the revision was written.
            schema: the table's, if it is not the current one.
            lock_timeout_seconds: how long to wait for the table, and its writers meanwhile.
        """
        operations.invoke(cls(table, key, version, schema, lock_timeout_seconds))

    def statements(self) -> Iterator[str]:
        """Render the SQL.

        NOT VALID for good: the planner looks at valid checks whenever it plans a query of a partition, which
        would cost every read.
        """
        yield self.timeout()
        check = f"CHECK (public.shard_owns({identifier(self.key or '')})) NOT VALID"
        yield f"ALTER TABLE {self.name} ADD CONSTRAINT {CHECK_NAME} {check}"

    def reverse(self) -> "DropShardGuardOp":
        """Drop it again."""
        return DropShardGuardOp(**vars(self))


@Operations.register_operation("drop_shard_guard")
class DropShardGuardOp(ShardGuard):
    """Take a table's guard away; with `key`, a downgrade can make it again."""

    @classmethod
    def drop_shard_guard(
        cls,
        operations: Operations,
        table: str,
        *,
        key: str | None = None,
        version: int = 1,
        schema: str | None = None,
        lock_timeout_seconds: float = 3.0,
    ) -> None:
        """Take the guard of a table and its partitions away. Parameters: as `create_shard_guard`."""
        operations.invoke(cls(table, key, version, schema, lock_timeout_seconds))

    def statements(self) -> Iterator[str]:
        """Render the SQL: a partition that was attached with a check of its own keeps that one otherwise."""
        yield self.timeout()
        yield f"""\
DO $guard$
DECLARE
    guarded regclass;
BEGIN
    LOOP
        SELECT conrelid::regclass INTO guarded FROM pg_constraint
        WHERE conname = {literal(CHECK_NAME)} AND contype = 'c' AND coninhcount = 0
          AND (conrelid = {literal(self.name)}::regclass
               OR conrelid IN (SELECT relid FROM pg_partition_tree({literal(self.name)}::regclass)))
        LIMIT 1;
        EXIT WHEN guarded IS NULL;
        EXECUTE 'ALTER TABLE ' || guarded::text || ' DROP CONSTRAINT {CHECK_NAME}';
    END LOOP;
END
$guard$"""

    def reverse(self) -> CreateShardGuardOp:
        """Create it again."""
        return CreateShardGuardOp(**vars(self))


@Operations.implementation_for(CreateShardGuardOp)
@Operations.implementation_for(DropShardGuardOp)
def _run(operations: Operations, operation: CreateShardGuardOp | DropShardGuardOp) -> None:
    context = operations.get_context()
    for statement in operation.statements():
        if context.as_sql:
            context.impl.static_output(f"{statement}{context.impl.command_terminator}")
        else:
            connection = operations.get_bind()
            connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def _render(_context: AutogenContext, operation: ShardGuard) -> str:
    verb = "create_shard_guard" if isinstance(operation, CreateShardGuardOp) else "drop_shard_guard"
    schema = f", schema={operation.schema!r}" if operation.schema else ""
    return f"op.{verb}({operation.table!r}, key={operation.key!r}, version={operation.version}{schema})"


renderers.dispatch_for(CreateShardGuardOp)(_render)
renderers.dispatch_for(DropShardGuardOp)(_render)

_GUARDS = text("""
    SELECT c.relname AS table, CASE WHEN n.nspname <> current_schema() THEN n.nspname END AS schema,
           a.attname AS key
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.conkey[1]
    WHERE k.conname = :name AND k.contype = 'c' AND NOT c.relispartition
""")
_Key = tuple[str | None, str]


def compare_guards(
    context: AutogenContext, upgrade_ops: UpgradeOps, _schemas: set[str | None]
) -> PriorityDispatchResult:
    """Find tables whose model has a shard key and which have no guard, and the other way round."""
    connection, metadata = context.connection, context.metadata
    if connection is not None and isinstance(metadata, MetaData):
        upgrade_ops.ops.extend(changes(metadata, _read_guards(connection)))
    return PriorityDispatchResult.CONTINUE


def changes(metadata: MetaData, standing: Mapping[_Key, str]) -> Iterator[MigrateOperation]:
    """Return what makes the guards as the models want them. Pure.

    Parameters:
        metadata: the models.
        standing: the shard key by which each table is guarded, by schema and name.
    """
    for table in metadata.tables.values():
        if is_partition(table):
            continue
        wanted, found = shard_key_of(table), standing.get((table.schema, table.name))
        if wanted == found:
            continue
        if found is not None:
            yield DropShardGuardOp(table.name, found, NEWEST_GUARD, table.schema)
        if wanted is not None:
            yield CreateShardGuardOp(table.name, wanted, NEWEST_GUARD, table.schema)


def _read_guards(connection: Connection) -> dict[_Key, str]:
    rows = connection.execute(_GUARDS, {"name": CHECK_NAME})
    return {(row.schema, row.table): row.key for row in rows}


# alembic keeps a registry of plugins for the process, and loads env.py anew for each command.
_plugin = Plugin("sharding.migration_ops")
_plugin.add_autogenerate_comparator(compare_guards, "schema", "shard guards", priority=DispatchPriority.LAST)
