"""In which order the servers put text: asked of each shard once, and kept.

Python compares code points, as the collation "C" and its kin do. Any other collation has an order that only
the server knows.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Column, Table, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql import visitors
from sqlalchemy.types import Text

from readreplica.cluster import Cluster
from sharding.scatter.errors import ScatterRefused
from sharding.scatter.kinds import DIALECT
from sharding.scatter.tables import Clause

# glibc's C.UTF-8 compares code points since 2.35, and so did Debian's before.
_CODE_POINTS = re.compile(r"c|posix|ucs_basic|pg_c_utf8|pg_unicode_fast|c\.utf-?8", re.IGNORECASE)
_COMPARED_AS_TEXT = frozenset({"text", "varchar"})

# datlocale is called daticulocale before PostgreSQL 17.
_ASKED = text("""
    SELECT concat_ws(' ', d.datlocprovider, coalesce(to_jsonb(d)->>'datlocale', to_jsonb(d)->>'daticulocale',
                     d.datcollate)) AS database, pg_encoding_to_char(d.encoding) AS encoding,
           c.asked, c.attname, t.typname, l.collname
    FROM pg_database AS d
    LEFT JOIN LATERAL (
        SELECT asked, a.attname, a.atttypid, a.attcollation
        FROM unnest(:tables) AS asked JOIN pg_attribute AS a ON a.attrelid = to_regclass(asked)
        WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attcollation <> 0
    ) AS c ON true
    LEFT JOIN pg_type AS t ON t.oid = c.atttypid
    LEFT JOIN pg_collation AS l ON l.oid = c.attcollation
    WHERE d.datname = current_database()
""").bindparams(bindparam("tables", type_=ARRAY(Text)))

Ask = Callable[[Any], Awaitable[Sequence[Any]]]


@dataclass(frozen=True)
class Facts:
    """What a shard says: its default collation and encoding; of text columns their types and collations."""

    database: str
    encoding: str
    columns: Mapping[tuple[str, str], tuple[str, str]]


_facts: WeakKeyDictionary[Cluster, dict[frozenset[str], Facts]] = WeakKeyDictionary()


async def facts_of(cluster: Cluster, tables: Iterable[Table], ask: Ask) -> Facts:
    """Give what a shard says of some tables.

    Parameters:
        cluster: the shard.
        tables: those whose columns are compared.
        ask: runs a statement there.
    """
    names = frozenset(map(_name, tables))
    known = _facts.setdefault(cluster, {})
    if names not in known:
        rows = await ask(_ASKED.bindparams(tables=sorted(names)))
        columns = {(row.asked, row.attname): (row.typname, row.collname) for row in rows if row.asked}
        known[names] = Facts(rows[0].database, rows[0].encoding, columns)
    return known[names]


def check_order(clauses: Iterable[Clause], facts: Facts, *, shard: str) -> None:
    """Refuse text that Python would put into another order than the server.

    Parameters:
        clauses: the text expressions that rows are merged by.
        facts: what the shard says.
        shard: its name.

    Raises:
        ScatterRefused: it names the collation, and the way out.
    """
    for clause in clauses:
        for name in _collations(clause, facts, shard):
            if facts.encoding != "UTF8" or not _CODE_POINTS.fullmatch(name):
                raise ScatterRefused(
                    f"{clause} is ordered by the collation {name!r} ({facts.encoding}) on shard {shard}, and "
                    f'only the server knows that order: order by collate({clause}, "C")'
                )


def check_defaults(clauses: Iterable[Clause], facts: Facts, first: Facts, *, shard: str) -> None:
    """Refuse aggregates over text that one shard would compare by other rules than another.

    Raises:
        ScatterRefused: a column has a collation of its own, or two databases differ in theirs.
    """
    columns = [column for clause in clauses for column in _text_columns(clause, facts)]
    for column, (_, collation) in columns:
        if collation != "default":
            raise ScatterRefused(
                f"{column} has the collation {collation!r}, which is lost between the two stages: "
                "cast it to Text"
            )
    if columns and (facts.database, facts.encoding) != (first.database, first.encoding):
        raise ScatterRefused(
            f"shard {shard} compares text by {facts.database!r}, another by {first.database!r}"
        )


def _collations(clause: Clause, facts: Facts, shard: str) -> list[str]:
    elements: Iterable[Any] = visitors.iterate(clause)
    explicit = [each.collation for each in elements if each.__visit_name__ == "collation"]
    if explicit:
        return explicit
    found = []
    for column, (type_name, collation) in _text_columns(clause, facts):
        if type_name not in _COMPARED_AS_TEXT:
            raise ScatterRefused(f"{column} is of type {type_name} on shard {shard}: cast it to Text")
        found.append(collation)
    default = facts.database.partition(" ")[2] if facts.database[0] != "i" else f"ICU {facts.database[2:]}"
    return [default if name == "default" else name for name in found or ["default"]]


def _text_columns(clause: Clause, facts: Facts) -> list[tuple[Column[Any], tuple[str, str]]]:
    columns = [each for each in visitors.iterate(clause) if isinstance(each, Column)]
    found = [(column, facts.columns.get((_name(_table(column)), column.name))) for column in columns]
    return [(column, fact) for column, fact in found if fact is not None]


def _table(column: Column[Any]) -> Any:
    return getattr(column.table, "element", column.table)


def _name(table: Any) -> str:
    return str(DIALECT.identifier_preparer.format_table(table))
