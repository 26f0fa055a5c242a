"""GROUP BY and aggregates over all shards, in two stages, both computed by PostgreSQL.

Each shard groups its own rows and sends the parts of each aggregate as text: a count is the sum of counts, an
average that of sums and counts. One shard then aggregates the parts of all, and evaluates HAVING, ORDER BY
and everything around the aggregates: the types, the digits of an average and the treatment of NULL are the
server's own, and no arithmetic is done in Python.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    FunctionFilter,
    ScalarSelect,
    Select,
    Text,
    cast,
    func,
    literal,
    literal_column,
    select,
    type_coerce,
    types,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql import visitors
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import UserDefinedType

from sharding.errors import ScatterRefused
from sharding.private_api import having_criteria, where_criteria
from sharding.scatter.analysis import selected
from sharding.scatter.grammar import MERGED_AGGREGATES
from sharding.scatter.order import Direction, Term, position_after, split_order
from sharding.scatter.tables import Clause, is_table

_EXACT = frozenset({"bigint", "numeric"})
_DIVISIBLE = frozenset({"double precision", "interval"})


class Parts:
    """What each shard computes of each group: the group's expressions first, then parts of the aggregates."""

    def __init__(self, groups: Sequence[Clause]) -> None:
        """Begin with the expressions of GROUP BY."""
        self.clauses: list[Clause] = []
        self.groups = len(groups)
        for group in groups:
            _refuse_collation(group)
            self.clauses.append(group)

    def collect(self, clause: Clause) -> None:
        """Note the parts that an expression needs.

        Raises:
            ScatterRefused: it holds what cannot be made from parts.
        """
        self._rewrite(clause, None)

    def merge(self, clause: Clause, columns: Sequence[Clause]) -> Clause:
        """Rewrite an expression to be made from the parts of all shards.

        Parameters:
            clause: one that was collected.
            columns: the parts, as columns of the second stage.
        """
        return self._rewrite(clause, columns)

    def _rewrite(self, clause: Clause, columns: Sequence[Clause] | None) -> Clause:
        if is_table(clause):
            raise ScatterRefused(f"it selects all columns of {clause} and has aggregates: select columns")

        def replace(element: Clause, **_: Any) -> Clause | None:
            return self._replace(element, columns)

        return visitors.replacement_traverse(clause, {}, replace)

    def _replace(self, element: Clause, columns: Sequence[Clause] | None) -> Clause | None:
        for index, group in enumerate(self.clauses[: self.groups]):
            if group.compare(element):
                return type_coerce(_at(columns, index), group.type)
        if isinstance(element, FunctionFilter):
            aggregate: Any = element.func
            return self._merged(aggregate, (element.criterion,), columns)
        if isinstance(element, FunctionElement) and element.name.lower() in MERGED_AGGREGATES:
            return self._merged(element, (), columns)
        if isinstance(element, Column):
            raise ScatterRefused(f"{element} is neither in GROUP BY nor in an aggregate")
        if isinstance(element, (Select, ScalarSelect)):
            raise ScatterRefused("a subquery beside aggregates is not in GROUP BY: group by it")
        return None

    def _merged(
        self, aggregate: FunctionElement[Any], criteria: Sequence[Clause], columns: Sequence[Clause] | None
    ) -> Clause:
        _refuse_collation(aggregate)
        name = aggregate.name.lower()
        if name == "avg":
            return type_coerce(self._average(aggregate, criteria, columns), aggregate.type)
        column = self._part(aggregate, criteria, columns)
        if name == "count":
            whole = cast(func.coalesce(func.sum(column), 0), BigInteger)
        elif name == "sum":
            # A sum of bigint is numeric, but a sum of int that was summed up once more stays bigint.
            whole = cast(func.sum(column), column.type) if columns is not None else column
        else:
            whole = getattr(func, name)(column)
        return type_coerce(whole, aggregate.type)

    def _average(
        self, aggregate: FunctionElement[Any], criteria: Sequence[Clause], columns: Sequence[Clause] | None
    ) -> Clause:
        [argument] = aggregate.clauses
        if isinstance(argument.type, types.Float):
            # PostgreSQL adds up reals as double precision for avg(), but as real for sum().
            argument = cast(argument, Double)
        total = self._part(func.sum(argument), criteria, columns)
        number = self._part(func.count(argument), criteria, columns)
        if columns is None:
            return total
        divisor = func.nullif(func.sum(number), 0)
        if total.type.name in _EXACT:
            return func.sum(total) / divisor
        if total.type.name in _DIVISIBLE:
            return func.sum(total) / cast(divisor, Double)
        raise ScatterRefused(f"avg() of what adds up to {total.type.name}: cast it to Numeric or Double")

    def _part(
        self, aggregate: FunctionElement[Any], criteria: Sequence[Clause], columns: Sequence[Clause] | None
    ) -> Clause:
        part = FunctionFilter(aggregate, *criteria) if criteria else aggregate
        known = (i for i, each in enumerate(self.clauses) if i >= self.groups and each.compare(part))
        index = next(known, len(self.clauses))
        if index == len(self.clauses):
            self.clauses.append(part)
        return _at(columns, index)


def _at(columns: Sequence[Clause] | None, index: int) -> Clause:
    return literal_column(f"p{index}") if columns is None else columns[index]


def _refuse_collation(clause: Clause) -> None:
    for element in visitors.iterate(clause):
        if element.__visit_name__ == "collation":
            raise ScatterRefused(
                f"a collation inside {clause} would be lost between the two stages: put it around"
            )


# pg_typeof gives these without their length, and a cast to the bare name cuts the value.
_LENGTH_IS_LOST = frozenset({"character", "bit"})


class Named(UserDefinedType[Any]):
    """A type by the name that the server gave it."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: Any) -> str:
        """Return the name, which the server has quoted if it must be."""
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
        """Return the expressions whose collation may matter to the second stage."""
        return self.parts.clauses

    def part(self, statement: Any, *, limit: int) -> Any:
        """Make what each shard is asked: of each group the values as text, then the names of their types."""
        parts = self.parts.clauses
        values = [cast(part, Text).label(f"p{i}") for i, part in enumerate(parts)]
        named = [cast(func.pg_typeof(part), Text).label(f"t{i}") for i, part in enumerate(parts)]
        # Grouped by the expressions: the name of a label is not selected any more.
        asked = select(*values, *named).select_from(*statement.get_final_froms())
        asked = asked.where(*where_criteria(statement)).group_by(*parts[: self.parts.groups])
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
        """Return the position of a row of `whole`: of each term its text, and the name of its type."""
        return list(row[self.width :])

    def given(self, rows: Sequence[Any]) -> list[Any]:
        """Return the caller's columns of each row."""
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
    columns, having = tuple(selected(statement)), tuple(having_criteria(statement))
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
