"""GROUP BY and aggregates over all shards, in two stages, both computed by PostgreSQL.

Each shard groups its own rows and sends the parts of each aggregate as text. One shard then aggregates the
parts of all, and evaluates HAVING, ORDER BY and everything around the aggregates: the types, the digits of an
average and the treatment of NULL are the server's own, and no arithmetic is done in Python.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from sqlalchemy import Text, cast, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import UserDefinedType

from sharding.errors import ScatterRefused
from sharding.scatter.analysis import selected
from sharding.scatter.order import Direction, Term, position_after, split_order
from sharding.scatter.tables import Clause

# pg_typeof gives these without their length, and a cast to the bare name cuts the value.
_LENGTH_IS_LOST = frozenset({"character", "bit"})


class Named(UserDefinedType[Any]):
    """A type by the name that the server gave it."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        """Give the name, which the server has quoted if it must be."""
        return self.name


@dataclass(frozen=True)
class GroupsPlan:
    """What the shards are asked, and how their answers are put together.

    Parameters:
        parts: what each shard computes of each group, and how the whole is made of it.
        columns, having, ordered: the clauses of the SELECT; the order is total.
    """

    parts: Parts
    columns: tuple[Clause, ...]
    having: tuple[Clause, ...]
    ordered: tuple[tuple[Clause, Direction], ...]

    @property
    def width(self) -> int:
        """How many columns the caller has asked for."""
        return len(self.columns)

    def compared(self) -> Sequence[Clause]:
        """Give the expressions whose collation may matter to the second stage."""
        return self.parts.clauses

    def part(self, statement: Any, *, limit: int) -> Any:
        """Make what each shard is asked: of each group the values as text, then the names of their types."""
        parts = self.parts.clauses
        values = [cast(part, Text).label(f"p{i}") for i, part in enumerate(parts)]
        named = [cast(func.pg_typeof(part), Text).label(f"t{i}") for i, part in enumerate(parts)]
        # Grouped by the expressions: the name of a label is not selected any more.
        asked = select(*values, *named).select_from(*statement.get_final_froms())
        asked = asked.where(*statement._where_criteria).group_by(*parts[: self.parts.groups])
        return asked.limit(limit)

    def whole(self, rows: Sequence[Sequence[str]], *, after: Sequence[Any] | None, limit: int) -> Any:
        """Make the second stage from the rows of all shards, for one of them to compute.

        Parameters:
            rows: what the shards have sent.
            after: the position of the page before, as `values` gave it.
            limit: how many groups are wanted at most.

        Raises:
            ScatterRefused: the types of the parts do not allow it.
        """
        source = _typed(rows, len(self.parts.clauses))
        columns = [source.c[f"p{i}"] for i in range(len(self.parts.clauses))]
        terms = [
            Term(self.parts.merge(clause, columns), direction, is_nullable=True)
            for clause, direction in self.ordered
        ]
        whole = select(*(self.parts.merge(column, columns) for column in self.columns)).select_from(source)
        whole = whole.group_by(*columns[: self.parts.groups])
        whole = whole.having(*(self.parts.merge(clause, columns) for clause in self.having))
        if after is not None:
            whole = whole.having(_beyond(terms, after))
        whole = whole.add_columns(*(each for term in terms for each in _position(term.clause)))
        return whole.order_by(*(term.ordered() for term in terms)).limit(limit)

    def has_more(self, rows: Sequence[Sequence[str]], *, after: Sequence[Any]) -> Any:
        """Make what asks whether there is a group after a position."""
        return select(self.whole(rows, after=after, limit=1).exists())

    def values(self, row: Sequence[Any]) -> list[Any]:
        """Give the position of a row of `whole`: of each term its text, and the name of its type."""
        return list(row[self.width :])

    def given(self, rows: Sequence[Any]) -> list[Any]:
        """Give the caller's part of each row."""
        return list(map(itemgetter(0 if self.width == 1 else slice(self.width)), rows))


def plan_groups(statement: Any, groups: Sequence[Clause], ordered: Sequence[Clause]) -> GroupsPlan:
    """Plan a SELECT whose groups are spread over the shards.

    Parameters:
        statement: the SELECT.
        groups: the resolved elements of GROUP BY.
        ordered: the resolved elements of ORDER BY.

    Raises:
        ScatterRefused: an aggregate cannot be made from its parts, or a column is neither grouped nor
            aggregated.
    """
    parts = Parts(groups)
    columns, having = tuple(selected(statement)), tuple(statement._having_criteria)
    terms = [split_order(each) for each in ordered]
    # The groups themselves tell a row from every other. One row needs no order.
    terms += [(group, Direction()) for group in groups]
    total = tuple(terms) if groups else ()
    for clause in (*columns, *having, *(clause for clause, _ in total)):
        parts.collect(clause)
    return GroupsPlan(parts, columns, having, total)


def _typed(rows: Sequence[Sequence[str]], width: int) -> Any:
    """Make a table of the parts, each column of the type that it had on the shards."""
    names = tuple(rows[0][width:])
    for row in rows:
        if tuple(row[width:]) != names:
            raise ScatterRefused(f"the shards give different types: {names} and {tuple(row[width:])}")
    for name in names:
        if name.removesuffix("[]") in _LENGTH_IS_LOST:
            raise ScatterRefused(f"a value of type {name} would lose its length on the way: cast it to Text")
    arrays = [literal([row[i] for row in rows], ARRAY(Text)) for i in range(width)]
    sent = func.unnest(*arrays).table_valued(*(f"p{i}" for i in range(width)), name="sent").render_derived()
    typed = (cast(sent.c[f"p{i}"], Named(name)).label(f"p{i}") for i, name in enumerate(names))
    return select(*typed).subquery("parts")


def _position(clause: Clause) -> tuple[Clause, Clause]:
    return cast(clause, Text), cast(func.pg_typeof(clause), Text)


def _beyond(terms: Sequence[Term], after: Sequence[Any]) -> Clause:
    texts, names = after[0::2], after[1::2]
    typed = [
        Term(term.clause, term.direction, term.is_nullable, bind=_caster(name))
        for term, name in zip(terms, names, strict=True)
    ]
    return position_after(typed, texts)


def _caster(name: str) -> Any:
    # The name comes back in a signed cursor, so it is one that a server has given.
    return lambda text: cast(literal(text, Text), Named(name))
