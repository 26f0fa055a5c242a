"""The order of a page: the terms of ORDER BY made total, where a page goes on, and how servers order text.

Python compares code points, as the collation "C" and its kin do. Any other collation has an order that only
the server knows: each shard is asked once for its collations and settings, and the answer is kept.
"""

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from sqlalchemy import (
    Cast,
    Column,
    Label,
    TypeCoerce,
    TypeDecorator,
    and_,
    bindparam,
    false,
    or_,
    text,
    tuple_,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import Grouping, UnaryExpression
from sqlalchemy.types import Text

from readreplica.cluster import Cluster
from sharding.errors import ScatterRefused
from sharding.scatter.kinds import DIALECT, Kind, bound, kind_of, ranker
from sharding.scatter.tables import Clause


@dataclass(frozen=True)
class Direction:
    """The direction of a term. PostgreSQL sorts NULL as the greatest value without NULLS FIRST or LAST."""

    is_descending: bool = False
    nulls_first: bool | None = None

    @property
    def nulls_are_first(self) -> bool:
        """Whether NULL comes before every value."""
        return self.is_descending if self.nulls_first is None else self.nulls_first

    @property
    def nulls_greatest(self) -> bool:
        """Whether NULL is above every value, seen before the descent is."""
        return self.nulls_are_first == self.is_descending


@dataclass(frozen=True)
class Term:
    """One term of a total order."""

    clause: Clause
    direction: Direction
    is_nullable: bool
    kind: Kind | None = None
    bind: Callable[[Any], Clause] = bound
    """Makes a parameter of a fetched value."""

    @property
    def bare(self) -> Clause:
        """The expression without the operators of a type of the caller's own, which may compare otherwise."""
        if self.kind is not None and isinstance(self.clause.type, TypeDecorator):
            return self.kind.plain(self.clause)
        return self.clause

    def ordered(self) -> Clause:
        """Return the element of ORDER BY."""
        clause = self.bare.desc() if self.direction.is_descending else self.bare.asc()
        match self.direction.nulls_first:
            case None:
                return clause
            case True:
                return clause.nulls_first()
            case False:
                return clause.nulls_last()

    def after(self, value: Any) -> Clause:
        """Return the condition that a row's value comes after a value."""
        if value is None:
            return self.clause.is_not(None) if self.direction.nulls_are_first else false()
        than = self.bind(value)
        beyond = self.bare < than if self.direction.is_descending else self.bare > than
        if self.is_nullable and not self.direction.nulls_are_first:
            return or_(beyond, self.clause.is_(None))
        return beyond

    def equals(self, value: Any) -> Clause:
        """Return the condition that a row's value is this one."""
        return self.clause.is_(None) if value is None else self.bare == self.bind(value)

    def sorter(self, index: int) -> Callable[[Any], Any]:
        """Return the key function for rows that have this term's value at `index`."""
        assert self.kind is not None
        return ranker(
            self.kind, index, is_nullable=self.is_nullable, nulls_greatest=self.direction.nulls_greatest
        )


def split_order(clause: Clause) -> tuple[Clause, Direction]:
    """Take an element of ORDER BY apart: the expression, and which way it goes."""
    descending, nulls_first = False, None
    while isinstance(clause, UnaryExpression) and clause.modifier is not None:
        if clause.modifier in {operators.nulls_first_op, operators.nulls_last_op}:
            nulls_first = clause.modifier is operators.nulls_first_op
        else:
            descending = clause.modifier is operators.desc_op
        clause = clause.element
    return clause, Direction(descending, nulls_first)


def resolve(clause: Clause, named: Callable[[str], Clause | None]) -> Clause:
    """Follow a label, or the name of one, to its expression.

    Parameters:
        clause: an expression of ORDER BY or GROUP BY.
        named: finds a selected column by its name.
    """
    if clause.__visit_name__ == "label_reference":
        return resolve(clause.element, named)
    if clause.__visit_name__ == "textual_label_reference":
        found = named(clause.element)
        if found is None:
            raise ScatterRefused(f"{clause.element!r} names no selected column")
        return resolve(found, named)
    if isinstance(clause, UnaryExpression) and clause.modifier is not None:
        inner = resolve(clause.element, named)
        clause = UnaryExpression(inner, modifier=clause.modifier)
    return clause.element if isinstance(clause, Label) else clause


def make_terms(
    ordered: Iterable[Clause], unique: Iterable[Clause], may_be_null: Callable[[Clause], bool]
) -> list[Term]:
    """Make the order total: the terms of ORDER BY, then what is missing of the unique key.

    Parameters:
        ordered: the resolved elements of ORDER BY.
        unique: expressions that together tell a row from every other.
        may_be_null: returns whether an expression may be NULL.

    Raises:
        ScatterRefused: a value cannot be compared as PostgreSQL does.
    """
    terms: list[Term] = []
    direction = Direction()
    for element in ordered:
        clause, direction = split_order(element)
        if not any(term.clause.compare(clause) for term in terms):
            terms.append(_term(clause, direction, may_be_null))
    # In the direction of the last term: an index on both is then read one way.
    onwards = Direction(direction.is_descending)
    for clause in unique:
        if not any(term.clause.compare(clause) for term in terms):
            terms.append(_term(clause, onwards, may_be_null))
    return terms


def _term(clause: Clause, direction: Direction, may_be_null: Callable[[Clause], bool]) -> Term:
    kind = kind_of(clause)
    return Term(clause, direction, may_be_null(clause), kind, kind.bind)


def position_after(terms: Sequence[Term], values: Sequence[Any]) -> Clause:
    """Return the condition that a row comes after a position of the order.

    One comparison of rows where that says the same, for an index serves it; else term by term.
    """
    is_simple = len({term.direction.is_descending for term in terms}) == 1 and not any(
        term.is_nullable for term in terms
    )
    if not is_simple:
        return _after_each(list(terms), list(values))
    left = tuple_(*(term.bare for term in terms)) if len(terms) > 1 else terms[0].bare
    right = tuple_(*(term.bind(value) for term, value in zip(terms, values, strict=True)))
    than = right if len(terms) > 1 else terms[0].bind(values[0])
    return left < than if terms[0].direction.is_descending else left > than


def _after_each(terms: list[Term], values: list[Any]) -> Clause:
    first, value = terms[0], values[0]
    if len(terms) == 1:
        return first.after(value)
    return or_(first.after(value), and_(first.equals(value), _after_each(terms[1:], values[1:])))


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


class ColumnType(NamedTuple):
    """What a column really is. `collation` is None for a type that has none."""

    type_name: str
    is_enum: bool
    collation: str | None


@dataclass(frozen=True, eq=False)
class ShardFacts:
    """What a shard says: its default collation, encoding, settings; of columns their types and collations."""

    database: str
    encoding: str
    settings: Mapping[str, str]
    columns: Mapping[tuple[str, str], "ColumnType"]


_facts: WeakKeyDictionary[Cluster, dict[frozenset[str], ShardFacts]] = WeakKeyDictionary()


async def facts_of(cluster: Cluster, tables: frozenset[str], ask: Ask) -> ShardFacts:
    """Return the types, collations and settings of a shard for some tables.

    Parameters:
        cluster: the shard.
        tables: the names of those whose columns are compared, as they stand in SQL.
        ask: runs a statement there.
    """
    known = _facts.setdefault(cluster, {})
    if tables not in known:
        rows = await ask(_ASKED.bindparams(tables=sorted(tables)))
        columns = {
            (row.asked, row.attname): ColumnType(row.typname, row.typtype == "e", row.collname)
            for row in rows
            if row.asked
        }
        known[tables] = ShardFacts(rows[0].database, rows[0].encoding, rows[0].settings, columns)
    return known[tables]


def check_order(terms: Iterable[Term], facts: ShardFacts, *, shard: str) -> None:
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


def check_settings(facts: ShardFacts, first: ShardFacts, *, shard: str) -> None:
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


def check_legible(facts: ShardFacts, *, shard: str) -> None:
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


def check_defaults(clauses: Iterable[Clause], facts: ShardFacts, first: ShardFacts, *, shard: str) -> None:
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


def _check_types(clause: Clause, kind: Kind, facts: ShardFacts, shard: str) -> None:
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


def _collations(clause: Clause, facts: ShardFacts) -> list[str]:
    elements: Iterable[Any] = visitors.iterate(clause)
    explicit = [each.collation for each in elements if each.__visit_name__ == "collation"]
    if explicit:
        return explicit
    found = [stored.collation for _, stored in _text_columns(clause, facts)]
    default = facts.database.partition(" ")[2] if facts.database[0] != "i" else f"ICU {facts.database[2:]}"
    return [name if name and name != "default" else default for name in found or ["default"]]


def _text_columns(clause: Clause, facts: ShardFacts) -> list[tuple[Column[Any], ColumnType]]:
    columns = [each for each in visitors.iterate(clause) if isinstance(each, Column)]
    found = [(column, facts.columns.get((_name(_table(column)), column.name))) for column in columns]
    return [(column, fact) for column, fact in found if fact is not None and fact.collation]


def _table(column: Column[Any]) -> Any:
    return getattr(column.table, "element", column.table)


def _name(table: Any) -> str:
    return str(DIALECT.identifier_preparer.format_table(table))
