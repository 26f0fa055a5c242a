"""An index on a partitioned table and all its partitions: for the executor, and as a script for psql.

The partitions differ by database. A script cannot know them; so it asks for them, and runs for each the
statements of the same action. Each does what is still missing: a killed run is mended by running it again.
"""

from collections.abc import Iterator, Sequence

from sqlalchemy import Connection, text

from partitions.indexes import CreateIndex, index_on, suffix_of
from partitions.migration_ops.runner import gexec
from partitions.migration_ops.statements import definition
from partitions.sql import beside, identifier, literal, relation, relation_oid, unique_name_sql
from partitions.steps import ExecutionMode, LockTimeouts, SqlStep, render_step

_ANY = "?"
"""The name of a partition in a statement that is a pattern; it is in quotes there, as no other name is."""

_PARTITIONS = text("""
    SELECT child.relname FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
    WHERE inhparent = to_regclass(:table) AND child.relkind = 'r' ORDER BY child.relname
""")

_INVALID = "found.oid IS NOT NULL AND NOT found.indisvalid AND NOT found.relispartition"
_ABSENT = "found.oid IS NULL"
_UNATTACHED = "found.indisvalid AND NOT found.relispartition"


def create_index(
    name: str,
    table: str,
    columns: Sequence[str],
    where: str | None,
    *,
    unique: bool,
    partitions: Sequence[str],
) -> CreateIndex:
    """Plan the index on partitions that are known."""
    return CreateIndex(
        table=table,
        index=name,
        definition=definition(columns, where),
        partitions=tuple(partitions),
        unique=unique,
        why="asked for by a migration",
    )


def partitions_of(connection: Connection, table: str) -> Sequence[str]:
    """Read the partitions of a table."""
    names = connection.scalars(_PARTITIONS, {"table": relation(table)})
    return [beside(table, name) for name in names]


def script(
    name: str, table: str, columns: Sequence[str], where: str | None, *, unique: bool, timeouts: LockTimeouts
) -> Iterator[str]:
    """Render the script for psql."""
    on_parent, again = create_index(name, table, columns, where, unique=unique, partitions=[]).steps()
    pattern = create_index(name, table, columns, where, unique=unique, partitions=[beside(table, _ANY)])
    _, build, attach, _ = pattern.steps()
    yield from render_step(on_parent, timeouts)
    for state, statement in ((_INVALID, *build.cleanup), (_ABSENT, *build.statements)):
        yield from render_step(
            SqlStep((_each(table, name, state, statement),), mode=ExecutionMode.AUTOCOMMIT), timeouts
        )
    yield from render_step(SqlStep((_each(table, name, _UNATTACHED, *attach.statements),)), timeouts)
    yield from render_step(again, timeouts)


def _each(table: str, name: str, state: str, statement: str) -> str:
    """Render the query that returns a statement for each partition whose index is in a state."""
    of_index, of_partition = identifier(index_on(_ANY, table, name)), identifier(_ANY)
    filled = (
        f"replace(replace({literal(statement)}, {literal(of_index)}, quote_ident(index_name)),\n"
        f"    {literal(of_partition)}, quote_ident(partition))"
    )
    full_name = f"child.relname || {literal(suffix_of(table, name))}"
    return gexec(f"""SELECT {filled}
FROM (
    SELECT child.relname::text AS partition, {unique_name_sql(f"({full_name})")} AS index_name
    FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
    WHERE inhparent = {relation_oid(table)} AND child.relkind = 'r'
) AS wanted
LEFT JOIN (
    SELECT pg_class.oid, relname, relispartition, indisvalid FROM pg_class JOIN pg_index ON indexrelid = oid
    WHERE relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = {relation_oid(table)})
) AS found ON found.relname = wanted.index_name
WHERE {state}
ORDER BY partition""")
