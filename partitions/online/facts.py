"""What must be known of a column before a change of its type is planned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, text

from partitions.online.backfill import run_plain
from partitions.online.errors import NoSuchColumn
from partitions.online.users import BEFORE_ROW, tree, users
from partitions.sql import RelationName, unquoted


@dataclass(frozen=True, slots=True)
class ColumnFacts:
    """What must be known of a column.

    Parameters:
        not_null: whether it refuses NULL.
        default: its default, as SQL.
        users: what uses it and would be lost with it, each as PostgreSQL describes it.
        citus: whether the table is Citus's.
        keyed: whether the table has a primary key, along which a backfill goes.
        table: the table, with its schema; None is found by its name.
        shown: the table as PostgreSQL prints it, with its schema where that must be said.
        type: its type, as PostgreSQL prints it.
        collation: its collation, as SQL, where it is not its type's own.
        columns: the table's columns, each with its comment.
        triggers: the triggers that may change a row before it is written, each with its comment.
    """

    not_null: bool
    default: str | None = None
    users: Sequence[str] = ()
    citus: bool = False
    keyed: bool = True
    table: RelationName | None = None
    shown: str | None = None
    type: str | None = None
    collation: str | None = None
    columns: Mapping[str, str | None] = field(default_factory=dict)
    triggers: Mapping[str, str | None] = field(default_factory=dict)


_FACTS = """
    SELECT attnotnull AS not_null, pg_get_expr(adbin, adrelid) AS default,
           EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') AS citus,
           EXISTS (SELECT FROM pg_index WHERE indrelid = attrelid AND indisprimary) AS keyed,
           relname, nspname, attrelid::regclass::text AS shown, format_type(atttypid, atttypmod) AS type,
           CASE WHEN attcollation <> typcollation THEN attcollation::regcollation::text END AS collation
    FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    JOIN pg_class ON pg_class.oid = attrelid JOIN pg_namespace ON pg_namespace.oid = relnamespace
    JOIN pg_type ON pg_type.oid = atttypid
    WHERE attrelid = to_regclass(:table) AND attname = :column AND attnum > 0 AND NOT attisdropped
"""
_COLUMNS = """
    SELECT attname, col_description(attrelid, attnum) FROM pg_attribute
    WHERE attrelid = to_regclass(:table) AND NOT attisdropped
"""


def read_column(connection: Connection, table: str, column: str) -> ColumnFacts:
    """Read what `change_type` must know.

    Raises:
        NoSuchColumn: the column is absent.
    """
    name, column = RelationName.of(table), unquoted(column)
    facts = connection.execute(text(_FACTS), {"table": str(name), "column": column}).one_or_none()
    if facts is None:
        raise NoSuchColumn(table, column)
    columns = connection.execute(text(_COLUMNS), {"table": str(name)})
    triggers = run_plain(
        connection,
        f"WITH RECURSIVE {tree(name)} SELECT tgname, obj_description(t.oid, 'pg_trigger') "
        f"FROM tree JOIN pg_trigger t ON tgrelid = relid WHERE {BEFORE_ROW} ORDER BY level DESC",
    )
    return ColumnFacts(
        facts.not_null,
        facts.default,
        tuple(run_plain(connection, users(name, column)).scalars()),
        facts.citus,
        facts.keyed,
        RelationName(facts.relname, facts.nspname),
        facts.shown,
        facts.type,
        facts.collation,
        dict(map(tuple, columns)),
        dict(map(tuple, triggers)),
    )
