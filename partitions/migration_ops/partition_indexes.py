"""An index on a partitioned table and all its partitions, without stopping writers. Pure.

PostgreSQL refuses CREATE INDEX CONCURRENTLY on the parent. So: an index ON ONLY the parent, which is invalid;
one concurrently on each partition; then each is attached, and with the last the parent's becomes valid.
Every statement does what is still missing, so that a killed run is mended by running it again.
"""

from collections.abc import Sequence

from partitions.migration_ops.sql import index
from partitions.migration_ops.steps import Step
from partitions.sql import literal


def create_index_on_partitions(
    name: str, table: str, columns: Sequence[str], *, where: str | None, unique: bool, timeout: Step
) -> tuple[Step, ...]:
    """Create the index everywhere."""
    own_timeout = Step(timeout.sql.replace("SET LOCAL", "SET"), alone=True)
    only = index(name, f"ON ONLY {table}", columns, where, unique=unique, how="IF NOT EXISTS ")
    return (
        own_timeout,
        Step(only, alone=True),
        Step("SET lock_timeout = 0", alone=True),
        _each(table, name, "invalid", "'DROP INDEX CONCURRENTLY ' || index_name"),
        _each(table, name, "absent", _create(columns, where, unique=unique)),
        own_timeout,
        _each(table, name, "unattached", f"'ALTER INDEX {name} ATTACH PARTITION ' || index_name"),
    )


def drop_index_on_partitions(name: str) -> tuple[Step, ...]:
    """Drop the index everywhere; PostgreSQL has no CONCURRENTLY for it."""
    return (Step(f"DROP INDEX {name}"),)


def _create(columns: Sequence[str], where: str | None, *, unique: bool) -> str:
    """Render an SQL expression that gives the statement for one partition."""
    statement = index("?", "ON ?", columns, where, unique=unique, how="CONCURRENTLY ")
    head, middle, tail = statement.split("?", 2)
    return f"{literal(head)} || index_name || {literal(middle)} || partition || {literal(tail)}"


_WANTED = {
    "invalid": "found.oid IS NOT NULL AND NOT found.indisvalid AND NOT found.relispartition",
    "absent": "found.oid IS NULL",
    "unattached": "found.indisvalid AND NOT found.relispartition",
}


def _each(table: str, name: str, state: str, statement: str) -> Step:
    # As PostgreSQL names them: orders_partner_idx becomes orders_hot_partner_idx. It cuts a name at 63 bytes.
    suffix = literal(f"_{name.removeprefix(f'{table}_')}")
    query = f"""SELECT {statement}
FROM (
    SELECT child.relname::text AS partition, (child.relname || {suffix})::name::text AS index_name
    FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
    WHERE inhparent = '{table}'::regclass AND child.relkind = 'r'
) AS wanted
LEFT JOIN (
    SELECT pg_class.oid, relname, relispartition, indisvalid FROM pg_class JOIN pg_index ON indexrelid = oid
    WHERE relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = '{table}'::regclass)
) AS found ON found.relname = wanted.index_name
WHERE {_WANTED[state]}
ORDER BY partition"""
    return Step(query, alone=True, generates=True)
