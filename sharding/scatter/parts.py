"""Aggregates from their parts: a count is the sum of counts, an average that of sums and counts."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    FunctionFilter,
    ScalarSelect,
    Select,
    cast,
    func,
    literal_column,
    type_coerce,
    types,
)
from sqlalchemy.sql import visitors
from sqlalchemy.sql.functions import FunctionElement

from sharding.errors import ScatterRefused
from sharding.scatter import grammar
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
        if isinstance(element, FunctionElement) and element.name.lower() in grammar.MERGED_AGGREGATES:
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
