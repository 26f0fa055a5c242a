"""The rows and sequences of a database, and bringing them back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

_TABLES = """
    SELECT oid::regclass::text FROM pg_class
    WHERE relkind = 'r' AND relpersistence <> 't' AND oid >= 16384
    ORDER BY 1"""

# A table that only a rolled back transaction has written has blocks too; what VACUUM or ANALYZE said of an
# empty one is forgotten with it.
_TOUCHED = """
    SELECT oid::regclass::text, reltuples >= 0 FROM pg_class
    WHERE relkind = 'r' AND relpersistence <> 't' AND oid >= 16384
        AND (pg_relation_size(oid) > 0 OR reltuples >= 0) ORDER BY 1"""

_SEQUENCES = "SELECT seqrelid::regclass::text FROM pg_sequence WHERE seqrelid >= 16384"

Position = tuple[int, bool]
"""The last value of a sequence, and whether it was given out."""

Estimate = tuple[str, int, float, int]

_ESTIMATES = """
    SELECT oid::regclass::text, relpages, reltuples, relallvisible FROM pg_class
    WHERE oid >= 16384 AND relkind IN ('r', 'i', 't') ORDER BY 1"""

# TRUNCATE leaves an index with other numbers than CREATE INDEX does.
_RESTORE_ESTIMATES = """
    UPDATE pg_class SET relpages = wanted.pages, reltuples = wanted.tuples, relallvisible = wanted.visible
    FROM unnest(%s::text[], %s::int[], %s::real[], %s::int[]) AS wanted (name, pages, tuples, visible)
    WHERE oid = wanted.name::regclass
        AND (relpages, reltuples, relallvisible) <> (wanted.pages, wanted.tuples, wanted.visible)"""


@dataclass(frozen=True)
class Contents:
    """The rows of the tables that have any, in COPY's text, and where each sequence stands."""

    rows: Mapping[str, bytes]
    sequences: Mapping[str, Position]
    estimates: Sequence[Estimate]
    """What the planner believes of every table and index."""


def read_contents(connection: psycopg.Connection[Any]) -> Contents:
    """Read every row."""
    tables = [name for (name,) in connection.execute(_TABLES)]
    rows = {name: _copy_out(connection, name) for name in tables}
    estimates = connection.execute(_ESTIMATES).fetchall()
    return Contents({name: found for name, found in rows.items() if found}, _positions(connection), estimates)


def restore(connection: psycopg.Connection[Any], wanted: Contents) -> bool:
    """Give tables and sequences what they had; tell whether anything had to be changed.

    The tables themselves must be those that `wanted` was read from. Nothing is committed if it fails.
    """
    touched = dict(connection.execute(_TOUCHED).fetchall())
    changed = [
        name
        for name, is_analyzed in touched.items()
        if is_analyzed or name not in wanted.rows or _copy_out(connection, name) != wanted.rows[name]
    ]
    emptied = [name for name in wanted.rows if name not in touched]
    positions = _positions(connection)
    moved = [name for name, position in wanted.sequences.items() if positions[name] != position]
    with connection.transaction():
        # Without triggers: the guard of the shards, foreign keys.
        connection.execute("SET LOCAL session_replication_role = replica")
        if changed:
            connection.execute(f"TRUNCATE {', '.join(changed)}".encode())
        for name in [*changed, *emptied]:
            _copy_in(connection, name, wanted.rows.get(name, b""))
        if touched:
            connection.execute(
                _RESTORE_ESTIMATES, [list(column) for column in zip(*wanted.estimates, strict=True)]
            )
        for name in moved:
            connection.execute("SELECT setval(%s::regclass, %s, %s)", [name, *wanted.sequences[name]])
    return bool(touched or emptied or moved)


def _positions(connection: psycopg.Connection[Any]) -> dict[str, Position]:
    names = [name for (name,) in connection.execute(_SEQUENCES)]
    read = "SELECT last_value, is_called FROM "
    return {name: connection.execute(f"{read}{name}".encode()).fetchone() or (0, False) for name in names}


def _copy_out(connection: psycopg.Connection[Any], table: str) -> bytes:
    with connection.cursor().copy(f"COPY {table} TO STDOUT") as copy:
        return b"".join(map(bytes, copy))


def _copy_in(connection: psycopg.Connection[Any], table: str, rows: bytes) -> None:
    if rows:
        with connection.cursor().copy(f"COPY {table} FROM STDIN") as copy:
            copy.write(rows)
