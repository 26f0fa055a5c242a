"""How a SELECT is answered: by merging the shards' ordered rows, or by aggregating their aggregates.

Of n rows a shard is first asked for its share and some: keys are spread by a hash, so with n over s shards a
shard's part is n/s within a few square roots. Where that was too little, and only there, the shard is asked
again, in the same snapshot, for all that the page may still need of it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, islice
from operator import itemgetter
from typing import Any
from weakref import WeakSet

from sqlalchemy import Column, Label, TypeDecorator, select, types
from sqlalchemy.sql.functions import FunctionElement

from sharding import private_api
from sharding.errors import ScatterRefused
from sharding.private_api import group_by_clauses, having_criteria, order_by_clauses, raw_columns
from sharding.scatter.analysis import Analysis, namer, selected
from sharding.scatter.grammar import LOCAL_AGGREGATES
from sharding.scatter.groups import GroupsPlan, plan_groups
from sharding.scatter.kinds import NUMERIC
from sharding.scatter.order import ShardFacts, Term, make_terms, position_after, resolve
from sharding.scatter.tables import Clause, is_table


class Unread(tuple[Any, ...]):
    """A row of which only the sort values were fetched; the rest is None."""

    __slots__ = ()


@dataclass(frozen=True)
class RowsPlan:
    """Rows that are merged in a total order, of which each shard gives its own part.

    Parameters:
        terms: the total order.
        indexes: where in a fetched row the values of the terms stand.
        extras: what is selected beside the caller's columns, for the order.
        width: how many columns the caller has asked for.
        is_distinct: whether shards may send equal rows, of which one is given.
        is_grouped: whether a shard's rows are groups.
    """

    terms: tuple[Term, ...]
    indexes: tuple[int, ...]
    extras: tuple[Clause, ...]
    width: int
    is_distinct: bool
    is_grouped: bool
    checked: WeakSet[ShardFacts] = field(default_factory=WeakSet)
    """What shards have said of the types and collations, where it was found to allow this order."""

    def part(self, statement: Any, *, after: Sequence[Any] | None, limit: int) -> Any:
        """Make what one shard is asked: its first rows after a position."""
        return self._ordered(statement, after).add_columns(*self.extras).limit(limit)

    def order_alone(self, statement: Any, *, after: Sequence[Any] | None, limit: int) -> Any:
        """Make what asks for the sort values alone of the rows of `part`, for `unread`."""
        bare = [term.bare.label(f"scatter_{i}") for i, term in enumerate(self.terms)]
        rows = self._ordered(statement, after).add_columns(*bare).limit(limit).subquery()
        terms = [replace(term, clause=rows.c[f"scatter_{i}"]) for i, term in enumerate(self.terms)]
        values = (term.kind.raw(term.clause) for term in terms if term.kind is not None)
        return select(*values).order_by(*(term.ordered() for term in terms))

    def unread(self, values: Sequence[Any]) -> Unread:
        """Put the sort values of a row where they stand in a row of `part`."""
        row: list[Any] = [None] * (self.width + len(self.extras))
        for index, value in zip(self.indexes, values, strict=True):
            row[index] = value
        return Unread(row)

    def _ordered(self, statement: Any, after: Sequence[Any] | None) -> Any:
        if after is not None:
            beyond = position_after(self.terms, after)
            statement = statement.having(beyond) if self.is_grouped else statement.where(beyond)
        return statement.order_by(None).order_by(*(term.ordered() for term in self.terms))

    def values(self, row: Sequence[Any]) -> list[Any]:
        """Return the position of a row in the order."""
        return [row[index] for index in self.indexes]

    @cached_property
    def sorters(self) -> tuple[tuple[Callable[[Any], Any], bool], ...]:
        """Of each term what `list.sort` takes: the key function, and whether to sort in reverse."""
        return tuple(
            (term.sorter(index), term.direction.is_descending)
            for term, index in zip(self.terms, self.indexes, strict=True)
        )

    def sort(self, rows: list[Any]) -> None:
        """Bring rows into the order, as the servers would."""
        # By the last term first: list.sort is stable, and runs that are in order cost it next to nothing.
        for key, is_descending in reversed(self.sorters):
            rows.sort(key=key, reverse=is_descending)

    def identity(self, row: Sequence[Any]) -> tuple[Any, ...]:
        """Return a key that is equal for rows that the server takes for equal."""
        return tuple(key(row) for key, _ in self.sorters)

    def given(self, rows: Sequence[Any]) -> list[Any]:
        """Return the caller's columns of each row."""
        return list(map(itemgetter(0 if self.width == 1 else slice(self.width)), rows))


def plan(statement: Any, analysis: Analysis) -> RowsPlan | GroupsPlan:
    """Decide how a SELECT is answered.

    Raises:
        ScatterRefused: not exactly, and why.
    """
    if analysis.kept:
        kept: RowsPlan | GroupsPlan = analysis.kept[0]
        return kept
    made = _plan(statement, analysis)
    # An expression holds the parameters of its own statement, a column does not.
    if isinstance(made, RowsPlan) and all(isinstance(term.clause, Column) for term in made.terms):
        analysis.kept.append(made)
    return made


def _plan(statement: Any, analysis: Analysis) -> RowsPlan | GroupsPlan:
    named = namer(statement)
    groups = [resolve(each, named) for each in group_by_clauses(statement)]
    ordered = [resolve(each, named) for each in order_by_clauses(statement)]
    if not (groups or _has_aggregates(statement, ordered)):
        if having_criteria(statement):
            raise ScatterRefused("it has HAVING without an aggregate: say it by WHERE")
        return _plan_rows(statement, analysis, ordered)
    if private_api.is_distinct(statement):
        raise ScatterRefused(
            "it has DISTINCT with GROUP BY or aggregates: group by all that is to be distinct"
        )
    if analysis.has_local_groups:
        terms = make_terms(ordered, groups, analysis.may_be_null)
        return _with_values(statement, terms, is_distinct=False, is_grouped=True)
    return plan_groups(statement, groups, ordered)


def _has_aggregates(statement: Any, ordered: Sequence[Clause]) -> bool:
    clauses = [*raw_columns(statement), *having_criteria(statement), *ordered]
    return any(_is_aggregate(each) for clause in clauses for each in _outside_subqueries(clause))


def _outside_subqueries(clause: Clause) -> Any:
    yield clause
    if clause.__visit_name__ != "select" and not is_table(clause):
        for child in clause.get_children():
            yield from _outside_subqueries(child)


def _is_aggregate(clause: Clause) -> bool:
    return isinstance(clause, FunctionElement) and clause.name.lower() in LOCAL_AGGREGATES


def _plan_rows(statement: Any, analysis: Analysis, ordered: Sequence[Clause]) -> RowsPlan:
    is_distinct = private_api.is_distinct(statement)
    unique = _columns(statement) if is_distinct else analysis.unique
    terms = make_terms(ordered, unique, analysis.may_be_null)
    if is_distinct:
        _check_distinct_order(terms, unique)
    return _with_values(statement, terms, is_distinct=is_distinct, is_grouped=False)


def _columns(statement: Any) -> list[Clause]:
    found: list[Clause] = []
    for each in selected(statement):
        columns = each.columns if is_table(each) else [each]
        found += [column.element if isinstance(column, Label) else column for column in columns]
    return found


def _check_distinct_order(terms: Sequence[Term], selected: Sequence[Clause]) -> None:
    for term in terms:
        if not any(term.clause.compare(each) for each in selected):
            raise ScatterRefused(f"it is DISTINCT and ordered by {term.clause}, which is not selected")


def _with_values(statement: Any, terms: Sequence[Term], *, is_distinct: bool, is_grouped: bool) -> RowsPlan:
    raw = selected(statement)
    width = len(raw)
    indexes: list[int] = []
    extras: list[Clause] = []
    for term in terms:
        index = _index_in(raw, term)
        if index is None:
            assert term.kind is not None
            index = width + len(extras)
            extras.append(term.kind.raw(term.clause).label(f"scatter_{len(extras)}"))
        indexes.append(index)
    return RowsPlan(tuple(terms), tuple(indexes), tuple(extras), width, is_distinct, is_grouped)


def _index_in(raw: Sequence[Clause], term: Term) -> int | None:
    """Find a term's value among the selected columns, where it is fetched as the server compares it."""
    found = term.clause.type
    assert term.kind is not None
    is_changed = isinstance(found, (TypeDecorator, types.Enum)) or term.kind.is_encoded
    # A column is what it is declared as; what an expression is, only the server knows.
    is_changed = is_changed or (term.kind is NUMERIC and not isinstance(term.clause, Column))
    if is_changed or not getattr(found, "asdecimal", True) or not getattr(found, "as_uuid", True):
        return None
    plain = [each.element if isinstance(each, Label) else each for each in raw]
    return next((i for i, each in enumerate(plain) if _is_same(each, term.clause)), None)


def _is_same(column: Clause, clause: Clause) -> bool:
    return not is_table(column) and bool(column.compare(clause))


_DEVIATIONS = 4.0


@dataclass
class Run:
    """The rows that one shard has sent, in order."""

    rows: list[Any] = field(default_factory=list)
    is_open: bool = True
    """Whether the shard may have more."""

    def add(self, rows: Sequence[Any], *, asked: int) -> None:
        """Take what the shard answered to a question for so many rows."""
        self.rows += rows
        self.is_open = len(rows) == asked


def share(wanted: int, shards: int) -> int:
    """Return how many rows to ask one shard for at first."""
    mean = wanted / shards
    deviation = math.sqrt(mean * (1 - 1 / shards))
    return min(wanted, math.ceil(mean + _DEVIATIONS * deviation) + (shards > 1))


@dataclass(frozen=True)
class Merged:
    """The rows in order, and how far that order is certain."""

    rows: list[Any]
    ready: int
    """So many rows of them come before all that was not fetched."""
    wanting: dict[int, int]
    """The runs that must be asked again, with the number of rows that the page may need of each."""


def merge(plan: RowsPlan, runs: Sequence[Run], *, wanted: int) -> Merged:
    """Merge runs, and find what is missing for so many rows.

    Parameters:
        plan: has the order of the rows, and which are equal if the SELECT is DISTINCT.
        runs: what each shard has sent.
        wanted: how many rows there should be.
    """
    rows: list[Any] = list(chain.from_iterable(run.rows for run in runs))
    plan.sort(rows)
    lasts = {id(run.rows[-1]): i for i, run in enumerate(runs) if run.is_open and run.rows}
    ends: dict[int, int] = {}
    if plan.is_distinct:
        rows = _distinct(plan, rows, lasts, ends)
    # No loop of Python over the rows where, as a rule, no run ends before the page does.
    elif not lasts.keys().isdisjoint(map(id, islice(rows, wanted - 1))):
        ends = {lasts[id(row)]: i + 1 for i, row in enumerate(rows) if id(row) in lasts}
    ready = min(ends.values(), default=len(rows))
    if ready >= wanted:
        return Merged(rows, ready, {})
    return Merged(rows, ready, {i: wanted - end for i, end in ends.items() if end < wanted})


def _distinct(plan: RowsPlan, rows: list[Any], lasts: dict[int, int], ends: dict[int, int]) -> list[Any]:
    """Leave one of several equal rows, which stand together; note where each run ends among those left."""
    left: list[Any] = []
    before: Any = None
    for row in rows:
        key = plan.identity(row)
        if key != before:
            left.append(row)
            before = key
        if id(row) in lasts:
            ends[lasts[id(row)]] = len(left)
    return left
