"""The tables of a FROM clause: by which column each is sharded, and whether their rows meet on one shard.

A table is sharded by the key that its declaration names, `Table(..., info=shard_key("request_key"))`, or else
by the one that the caller names. A table that every shard holds a copy of says
`info=reference_table()`; both are of `sharding.keys`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from sqlalchemy import (
    Alias,
    BinaryExpression,
    BooleanClauseList,
    Column,
    ColumnClause,
    ColumnElement,
    FromClause,
    Table,
)
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import Grouping
from sqlalchemy.sql.selectable import Join

from sharding.errors import ScatterRefused
from sharding.keys import is_reference, shard_key_of

Clause: TypeAlias = Any
"""An element of SQLAlchemy's expression tree, whose classes are mostly private."""


@dataclass(frozen=True)
class Source:
    """One table of a FROM clause. `key` is None for a reference table."""

    selectable: FromClause
    table: Table
    key: str | None
    is_nullable: bool
    """Whether an outer join may put NULLs in the place of its row."""


@dataclass
class Sources:
    """The tables of one FROM clause."""

    all: list[Source]
    links: list[tuple[Source, Source]]
    """Pairs whose shard keys are equal in every row that the FROM clause gives."""

    @property
    def sharded(self) -> list[Source]:
        """Those that are spread over the shards."""
        return [source for source in self.all if source.key is not None]


def collect(froms: Iterable[FromClause], *, key: str | None) -> Sources:
    """List the tables of a FROM clause.

    Raises:
        ScatterRefused: it holds something else than tables, or a join that needs rows of several shards.
    """
    found = Sources([], [])
    for each in froms:
        _add(found, each, key, is_nullable=False, below_outer=False)
    return found


def _add(
    found: Sources, from_: FromClause, key: str | None, *, is_nullable: bool, below_outer: bool
) -> list[Source]:
    if isinstance(from_, Join):
        return _add_join(found, from_, key, is_nullable=is_nullable, below_outer=below_outer)
    source = _source_of(from_, key, is_nullable=is_nullable)
    found.all.append(source)
    return [source]


def _add_join(
    found: Sources, join: Join, key: str | None, *, is_nullable: bool, below_outer: bool
) -> list[Source]:
    is_outer = join.isouter or join.full
    below = below_outer or is_outer
    left = _add(found, join.left, key, is_nullable=is_nullable or join.full, below_outer=below)
    right = _add(found, join.right, key, is_nullable=is_nullable or is_outer, below_outer=below)
    links = key_links(conjuncts([join.onclause]), left, right)
    _check_join(join, left, right, links, may_link_later=not below)
    found.links += links
    return left + right


def _check_join(
    join: Join, left: list[Source], right: list[Source], links: Sequence[Any], *, may_link_later: bool
) -> None:
    left_sharded, right_sharded = (any(source.key for source in side) for side in (left, right))
    if left_sharded and right_sharded:
        if not links and not may_link_later:
            raise ScatterRefused(
                f"the outer join {names(left)} - {names(right)} is not ON their shard keys "
                f"({_shard_keys([*left, *right])}), and its rows may be on different shards"
            )
    elif (right_sharded and (join.isouter or join.full)) or (left_sharded and join.full):
        raise ScatterRefused(
            f"the outer join {names(left)} - {names(right)} keeps rows of a reference table, and every shard "
            "would give its own copy of them: put the sharded table first"
        )


def _source_of(from_: FromClause, key: str | None, *, is_nullable: bool) -> Source:
    table = from_.element if isinstance(from_, Alias) else from_
    if not isinstance(table, Table):
        what = WHAT.get(getattr(from_, "__visit_name__", ""), type(from_).__name__)
        raise ScatterRefused(f"FROM holds {what}; tables, their aliases and joins of these can be scattered")
    if is_reference(table):
        return Source(from_, table, None, is_nullable)
    return Source(from_, table, _key_of(table, key), is_nullable)


WHAT = {
    "subquery": "a subquery",
    "cte": "a common table expression (WITH)",
    "lateral": "LATERAL",
    "values": "VALUES",
    "tablesample": "TABLESAMPLE",
    "table_valued_alias": "a function",
    "compound_select": "a UNION",
}


def _key_of(table: Table, given: str | None) -> str:
    declared = shard_key_of(table)
    name = declared or given
    if name is None:
        raise ScatterRefused(
            f"table {table.name} declares no shard key: declare it with info=shard_key(COLUMN), or "
            "info=reference_table() if every shard holds a copy of it, or give key="
        )
    if name not in {column.name for column in table.columns}:
        raise ScatterRefused(
            f"table {table.name} has no column {name}: name its shard key by info=shard_key(...), or "
            "say info=reference_table() if every shard holds a copy of it"
        )
    # partner_requests has an order_id and is sharded by another column: a mere column of that name may lie.
    if not declared and name not in {column.name for column in table.primary_key}:
        raise ScatterRefused(
            f"{table.name}.{name} is not in the primary key, so it may not be what the table is sharded by: "
            f"say info=shard_key({name!r}) if it is"
        )
    return name


def is_table(clause: Clause) -> bool:
    """Return whether it is an element of FROM; SQLAlchemy's functions are both, and expressions here."""
    return isinstance(clause, FromClause) and not isinstance(clause, ColumnElement)


def is_star(clause: Clause) -> bool:
    """Return whether an expression is the `*` of count(*) or of EXISTS (SELECT * ...)."""
    return isinstance(clause, ColumnClause) and clause.is_literal and clause.name == "*"


def conjuncts(criteria: Iterable[Clause]) -> Iterator[Clause]:
    """Split conditions into those that must all hold."""
    for each in criteria:
        clause = each
        while isinstance(clause, Grouping):
            clause = clause.element
        if isinstance(clause, BooleanClauseList) and clause.operator is operators.and_:
            yield from conjuncts(clause.clauses)
        elif clause is not None:
            yield clause


def is_key_of(clause: Clause, source: Source) -> bool:
    """Return whether an expression is a table's shard key."""
    while isinstance(clause, Grouping):
        clause = clause.element
    return (
        source.key is not None
        and isinstance(clause, Column)
        and clause.name == source.key
        and clause.table is not None
        and clause.table == source.selectable
    )


def key_links(
    criteria: Iterable[Clause], left: Iterable[Source], right: Iterable[Source]
) -> list[tuple[Source, Source]]:
    """Find the `a.key = b.key` among conditions that must all hold."""
    pairs = [(a, b) for a in left for b in right if a is not b]
    return [
        (a, b)
        for clause in criteria
        if isinstance(clause, BinaryExpression) and clause.operator is operators.eq
        for a, b in pairs
        if (is_key_of(clause.left, a) and is_key_of(clause.right, b))
        or (is_key_of(clause.left, b) and is_key_of(clause.right, a))
    ]


def are_linked(sources: Sequence[Source], links: Iterable[tuple[Source, Source]]) -> bool:
    """Return whether equal shard keys lead from each table to every other one."""
    if not sources:
        return True
    reached, edges = [sources[0]], list(links)
    for source in reached:
        for edge in edges:
            reached += [other for other in edge if source in edge and other not in reached]
    return all(source in reached for source in sources)


def check_linked(sources: Sequence[Source], links: Iterable[tuple[Source, Source]]) -> None:
    """Refuse sharded tables that are joined by something else than their shard keys.

    Raises:
        ScatterRefused: it names the tables and their keys.
    """
    if not are_linked(sources, links):
        raise ScatterRefused(
            f"{names(sources)} are not joined on their shard keys ({_shard_keys(sources)}), and their rows "
            "may be on different shards"
        )


def names(sources: Iterable[Source]) -> str:
    """Name tables for a message."""
    return ", ".join(source.table.name for source in sources)


def _shard_keys(sources: Iterable[Source]) -> str:
    return ", ".join(f"{source.table.name}.{source.key}" for source in sources if source.key)
