"""In which order the servers put text, and how they write values: asked of each shard once, and kept.

Python compares code points, as the collation "C" and its kin do. Any other collation has an order that only
the server knows.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from sqlalchemy import Cast, Column, TypeCoerce, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import Grouping
from sqlalchemy.types import Text

from readreplica.cluster import Cluster
from sharding.errors import ScatterRefused
from sharding.scatter.kinds import DIALECT, Kind
from sharding.scatter.order import Term
from sharding.scatter.tables import Clause

# glibc's C.UTF-8 compares code points since 2.35, and so did Debian's before.
_CODE_POINTS = re.compile(r"c|posix|ucs_basic|pg_c_utf8|pg_unicode_fast|c\.utf-?8", re.IGNORECASE)

# What the value of an expression, or its text, may depend on.
_SETTINGS = ["TimeZone", "DateStyle", "IntervalStyle", "extra_float_digits"]

# datlocale is called daticulocale before PostgreSQL 17.
_ASKED = text("""
    SELECT concat_ws(' ', d.datlocprovider, coalesce(to_jsonb(d)->>'datlocale', to_jsonb(d)->>'daticulocale',
                     d.datcollate)) AS database, pg_encoding_to_char(d.encoding) AS encoding,
           (SELECT jsonb_object_agg(s, current_setting(s)) FROM unnest(:settings) AS s) AS settings,
           c.asked, c.attname, coalesce(b.typname, t.typname) AS typname, t.typtype, l.collname
    FROM pg_database AS d
    LEFT JOIN LATERAL (
        SELECT asked, a.attname, a.atttypid, a.attcollation
        FROM unnest(:tables) AS asked JOIN pg_attribute AS a ON a.attrelid = to_regclass(asked)
        WHERE a.attnum > 0 AND NOT a.attisdropped
    ) AS c ON true
    LEFT JOIN pg_type AS t ON t.oid = c.atttypid
    LEFT JOIN pg_type AS b ON b.oid = t.typbasetype
    LEFT JOIN pg_collation AS l ON l.oid = c.attcollation
    WHERE d.datname = current_database()
""").bindparams(bindparam("tables", type_=ARRAY(Text)), bindparam("settings", _SETTINGS, ARRAY(Text)))

Ask = Callable[[Any], Awaitable[Sequence[Any]]]


class Stored(NamedTuple):
    """What a column really is. `collation` is None for a type that has none."""

    type_name: str
    is_enum: bool
    collation: str | None


@dataclass(frozen=True, eq=False)
class Facts:
    """What a shard says: its default collation, encoding, settings; of columns their types and collations."""

    database: str
    encoding: str
    settings: Mapping[str, str]
    columns: Mapping[tuple[str, str], "Stored"]


_facts: WeakKeyDictionary[Cluster, dict[frozenset[str], Facts]] = WeakKeyDictionary()


async def facts_of(cluster: Cluster, tables: frozenset[str], ask: Ask) -> Facts:
    """Give what a shard says of some tables.

    Parameters:
        cluster: the shard.
        tables: the names of those whose columns are compared, as they stand in SQL.
        ask: runs a statement there.
    """
    known = _facts.setdefault(cluster, {})
    if tables not in known:
        rows = await ask(_ASKED.bindparams(tables=sorted(tables)))
        columns = {
            (row.asked, row.attname): Stored(row.typname, row.typtype == "e", row.collname)
            for row in rows
            if row.asked
        }
        known[tables] = Facts(rows[0].database, rows[0].encoding, rows[0].settings, columns)
    return known[tables]


def check_order(terms: Iterable[Term], facts: Facts, *, shard: str) -> None:
    """Refuse what Python would put into another order than the server.

    Parameters:
        terms: what rows are merged by.
        facts: what the shard says.
        shard: its name.

    Raises:
        ScatterRefused: it names the type or the collation, and the way out.
    """
    for term in terms:
        clause, kind = term.clause, term.kind
        assert kind is not None
        _check_types(clause, kind, facts, shard)
        for name in _collations(clause, facts) if kind.is_text else ():
            if facts.encoding != "UTF8" or not _CODE_POINTS.fullmatch(name):
                raise ScatterRefused(
                    f"{clause} is ordered by the collation {name!r} ({facts.encoding}) on shard {shard}, and "
                    f'only the server knows that order: order by collate({clause}, "C")'
                )


def check_settings(facts: Facts, first: Facts, *, shard: str) -> None:
    """Refuse shards that give one expression different values.

    Raises:
        ScatterRefused: it names the setting.
    """
    for name, value in facts.settings.items():
        if value != first.settings[name]:
            raise ScatterRefused(
                f"{name} is {value!r} on shard {shard} and {first.settings[name]!r} on another: "
                "ALTER DATABASE or ALTER ROLE ... SET makes them the same"
            )


def check_legible(facts: Facts, *, shard: str) -> None:
    """Refuse settings under which the text of a value is not the whole of it: groups are sent as text.

    Raises:
        ScatterRefused: it names the setting.
    """
    style, digits = facts.settings["DateStyle"], facts.settings["extra_float_digits"]
    if not style.startswith("ISO"):
        raise ScatterRefused(
            f"DateStyle is {style!r} on shard {shard}, which names zones by letters: set ISO"
        )
    if int(digits) < 1:
        raise ScatterRefused(f"extra_float_digits is {digits} on shard {shard}, which rounds floats: set 1")


def check_defaults(clauses: Iterable[Clause], facts: Facts, first: Facts, *, shard: str) -> None:
    """Refuse aggregates over text that one shard would compare by other rules than another.

    Raises:
        ScatterRefused: a column has a collation of its own, or two databases differ in theirs.
    """
    columns = [column for clause in clauses for column in _text_columns(clause, facts)]
    for column, stored in columns:
        if stored.collation != "default":
            raise ScatterRefused(
                f"{column} has the collation {stored.collation!r}, which is lost between the two stages: "
                "cast it to Text"
            )
    if columns and (facts.database, facts.encoding) != (first.database, first.encoding):
        raise ScatterRefused(
            f"shard {shard} compares text by {facts.database!r}, another by {first.database!r}"
        )


def _check_types(clause: Clause, kind: Kind, facts: Facts, shard: str) -> None:
    """Refuse a column that is another type than it is declared: the server compares what it has."""
    while isinstance(clause, (TypeCoerce, Grouping)):
        clause = clause.element if isinstance(clause, Grouping) else clause.clause
    for column in _uncast_columns(clause):
        stored = facts.columns.get((_name(_table(column)), column.name))
        # Inside an expression a number may become text; what is like text, or an enum, remains it.
        is_of_it = column is clause or (kind.is_text and (stored and (stored.collation or stored.is_enum)))
        if stored and is_of_it and stored.type_name not in kind.stored:
            raise ScatterRefused(
                f"{column} is of type {stored.type_name} on shard {shard}, and declared {kind.name}: "
                f"cast it to {kind.name.title() if kind.is_text else 'what it is declared'}"
            )


def _uncast_columns(clause: Clause) -> Iterator[Column[Any]]:
    if isinstance(clause, Column):
        yield clause
    elif not isinstance(clause, Cast):
        for child in clause.get_children():
            yield from _uncast_columns(child)


def _collations(clause: Clause, facts: Facts) -> list[str]:
    elements: Iterable[Any] = visitors.iterate(clause)
    explicit = [each.collation for each in elements if each.__visit_name__ == "collation"]
    if explicit:
        return explicit
    found = [stored.collation for _, stored in _text_columns(clause, facts)]
    default = facts.database.partition(" ")[2] if facts.database[0] != "i" else f"ICU {facts.database[2:]}"
    return [name if name and name != "default" else default for name in found or ["default"]]


def _text_columns(clause: Clause, facts: Facts) -> list[tuple[Column[Any], Stored]]:
    columns = [each for each in visitors.iterate(clause) if isinstance(each, Column)]
    found = [(column, facts.columns.get((_name(_table(column)), column.name))) for column in columns]
    return [(column, fact) for column, fact in found if fact is not None and fact.collation]


def _table(column: Column[Any]) -> Any:
    return getattr(column.table, "element", column.table)


def _name(table: Any) -> str:
    return str(DIALECT.identifier_preparer.format_table(table))
