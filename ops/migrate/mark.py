"""The mark: a comment on the version table says which tree a database belongs to.

alembic knows a database by its revision alone, and every project's first one may be "0001". A comment needs
no table and no right but the owner's, goes along in dumps and to replicas, and is no drift of the schema.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text

from ops.project.project import ProjectTree
from partitions.sql import identifier, literal

PREFIX = "mes-storage tree: "

_MARKS = text("""
    SELECT c.oid = to_regclass(:version_table), c.oid::regclass::text, substring(d.description FROM :behind)
    FROM pg_description d JOIN pg_class c ON c.oid = d.objoid
    WHERE d.classoid = 'pg_class'::regclass AND d.objsubid = 0 AND starts_with(d.description, :prefix)
    ORDER BY 2
""")
# Whatever a person or an application may have made; what belongs to an extension is the administrator's.
_OBJECTS = text("""
    WITH made AS (
        SELECT 'pg_class'::regclass AS catalog, oid, relnamespace AS namespace, oid::regclass::text AS name
        FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c')
          AND oid IS DISTINCT FROM to_regclass(:version_table)
        UNION ALL
        SELECT 'pg_proc'::regclass, oid, pronamespace, oid::regprocedure::text FROM pg_proc
        UNION ALL
        SELECT 'pg_type'::regclass, oid, typnamespace, oid::regtype::text FROM pg_type
        WHERE typtype IN ('e', 'd', 'r')
    )
    SELECT made.name FROM made JOIN pg_namespace n ON n.oid = made.namespace
    WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND NOT EXISTS (
        SELECT FROM pg_depend d WHERE d.classid = made.catalog AND d.objid = made.oid AND d.deptype = 'e')
    ORDER BY 1
""")


class TreeMark(NamedTuple):
    """The table that bears a mark, whether that is the tree's own version table, and the tree it names."""

    is_own: bool
    table: str
    tree: str


def read_marks(connection: Connection, tree: ProjectTree) -> Sequence[TreeMark]:
    """Read every mark that a database bears."""
    values = {
        "version_table": identifier(tree.version_table),
        "prefix": PREFIX,
        "behind": len(PREFIX) + 1,
    }
    # A table that does not exist is no table's own: NULL.
    return [TreeMark(bool(own), table, name) for own, table, name in connection.execute(_MARKS, values)]


def find_foreign(marks: Iterable[TreeMark], tree: ProjectTree) -> str | None:
    """Return why the marks of a database are not the tree's; None if they are."""
    for mark in marks:
        if mark.tree != tree.name:
            return (
                f"its table {mark.table} says that it is of the tree {mark.tree!r}: correct the topology, "
                f"or, if that tree is gone, run COMMENT ON TABLE {mark.table} IS NULL in it"
            )
        if not mark.is_own:
            return (
                f"its version table is {mark.table}, and the project says {tree.version_table}: "
                f"correct version_table of the tree {tree.name}"
            )
    return None


def read_objects(connection: Connection, tree: ProjectTree) -> list[str]:
    """List what stands in a database beside alembic's version table; nothing in one that is empty."""
    return list(connection.scalars(_OBJECTS, {"version_table": identifier(tree.version_table)}))


def statement(tree: ProjectTree) -> str:
    """Return the statement that marks a database, which has a version table, as one of a tree."""
    return f"COMMENT ON TABLE {identifier(tree.version_table)} IS {literal(PREFIX + tree.name)}"


def removal(tree: ProjectTree) -> str:
    """Return the statement that takes the mark away."""
    return f"COMMENT ON TABLE {identifier(tree.version_table)} IS NULL"


def write_mark(connection: Connection, tree: ProjectTree) -> None:
    """Mark a database, and make its version table in the same transaction if it has none."""
    context = MigrationContext.configure(connection)
    table = context.impl.version_table_impl(
        version_table=tree.version_table, version_table_schema=None, version_table_pk=True
    )
    table.create(connection, checkfirst=True)
    connection.exec_driver_sql(statement(tree))
    connection.commit()
