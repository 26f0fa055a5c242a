"""A database with one table partitioned by status, and alembic's operations on it."""

import io
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import alembic
import psycopg
import sqlalchemy
from alembic.autogenerate import compare_metadata, produce_migrations, render_python_code
from alembic.operations import MigrateOperation, Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine, MetaData, create_engine, text
from sqlalchemy.pool import NullPool

from partitions.migration_ops import PLUGINS, ignore_undeclared_partitions
from tests.servers import PostgresServers

START = """
    CREATE TABLE orders (
        order_id bigint, status text, partner text, PRIMARY KEY (order_id, status)
    ) PARTITION BY LIST (status);
    CREATE TABLE orders_hot PARTITION OF orders FOR VALUES IN ('NEW', 'PACKING', 'SHIPPED');
    CREATE TABLE orders_done PARTITION OF orders FOR VALUES IN ('CLOSED');
    CREATE TABLE orders_lost (LIKE orders INCLUDING ALL);
    INSERT INTO orders SELECT id, (ARRAY['NEW', 'PACKING', 'SHIPPED', 'CLOSED'])[1 + id %% 4], 'p' || id %% 3
        FROM generate_series(1, 40) AS id;
    INSERT INTO orders_lost VALUES (41, 'LOST', 'p1')
"""


@contextmanager
def scratch_database(
    postgres: PostgresServers, script: str = START, *, name: str = "operations"
) -> Iterator[tuple[Engine, str]]:
    """Give a database that holds what the script makes, as an engine and as libpq's words."""
    with postgres.primary.connect() as server:
        # FILE_COPY: with fsync off its checkpoints cost nothing, and the replica has little to replay.
        server.execute(f"CREATE DATABASE {name} STRATEGY file_copy")
        try:
            conninfo = postgres.conninfo(name)
            engine = create_engine(
                "postgresql+psycopg://", creator=lambda: psycopg.connect(conninfo), poolclass=NullPool
            )
            with engine.begin() as connection:
                connection.exec_driver_sql(script)
            yield engine, conninfo
        finally:
            server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def migrate(engine: Engine, work: Callable[[Operations], object]) -> None:
    """Run operations as alembic runs one migration."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"transaction_per_migration": True})
        with context.begin_transaction(_per_migration=True):
            work(Operations(context))


def run(engine: Engine, operations: Sequence[MigrateOperation]) -> None:
    """Run operations as alembic runs one migration."""
    migrate(engine, lambda op: [op.invoke(operation) for operation in operations])


def autogenerate(engine: Engine, metadata: MetaData, *, include_schemas: bool = False) -> tuple[str, str]:
    """Give the upgrade and the downgrade that alembic would write into a new revision."""
    with engine.connect() as connection:
        script = produce_migrations(_context(connection, metadata, include_schemas=include_schemas), metadata)
    assert script.upgrade_ops is not None
    assert script.downgrade_ops is not None
    # It renders the body of a function, whose first line is indented by the template.
    upgrade, downgrade = render_python_code(script.upgrade_ops), render_python_code(script.downgrade_ops)
    return textwrap.dedent(f"    {upgrade}"), textwrap.dedent(f"    {downgrade}")


def differences(engine: Engine, metadata: MetaData, *, include_schemas: bool = False) -> list[object]:
    with engine.connect() as connection:
        return list(
            compare_metadata(_context(connection, metadata, include_schemas=include_schemas), metadata)
        )


def _context(connection: Connection, metadata: MetaData, *, include_schemas: bool) -> MigrationContext:
    options: dict[str, Any] = {
        "autogenerate_plugins": PLUGINS,
        "include_schemas": include_schemas,
        "target_metadata": metadata,
        "include_name": ignore_undeclared_partitions(connection, metadata),
    }
    return MigrationContext.configure(connection, opts=options)


def execute(engine: Engine, code: str) -> None:
    """Run rendered code as a revision would."""

    def work(operations: Operations) -> None:
        with Operations.context(operations.migration_context):
            exec(code, {"op": alembic.op, "sa": sqlalchemy})

    migrate(engine, work)


def script_of(operations: Sequence[MigrateOperation]) -> str:
    """Print operations as `alembic upgrade --sql` does."""
    output = io.StringIO()
    context = MigrationContext.configure(
        dialect_name="postgresql",
        opts={"as_sql": True, "output_buffer": output, "transaction_per_migration": True},
    )
    with context.begin_transaction(_per_migration=True):
        for operation in operations:
            Operations(context).invoke(operation)
    return output.getvalue()


_FACTS = (
    """SELECT relname, pg_get_expr(relpartbound, oid), pg_get_partkeydef(oid) FROM pg_class
       WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')""",
    "SELECT indexdef, indisvalid FROM pg_indexes JOIN pg_index ON indexrelid = indexname::regclass "
    "WHERE schemaname = 'public'",
    "SELECT conrelid::regclass, conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'c'",
    "SELECT attrelid::regclass, attname, format_type(atttypid, atttypmod), attnotnull FROM pg_attribute "
    "JOIN pg_class ON pg_class.oid = attrelid "
    "WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') "
    "AND attnum > 0 AND NOT attisdropped",
    "SELECT tableoid::regclass, order_id, status FROM orders",
)


def facts(engine: Engine) -> set[str]:
    """Describe the schema and where the rows are."""
    with engine.connect() as connection:
        return {str(row) for query in _FACTS for row in connection.execute(text(query))}


def partition_of(connection: Connection, status: str) -> set[str]:
    """Name the partitions in which orders of a status stand."""
    found = text("SELECT DISTINCT tableoid::regclass::text FROM orders WHERE status = :status")
    return set(connection.scalars(found, {"status": status}))
