"""The terms of an order: what ORDER BY says, made total, and where a page goes on."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Label, TypeDecorator, and_, false, or_, tuple_
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import UnaryExpression

from sharding.errors import ScatterRefused
from sharding.scatter.kinds import Kind, bound, kind_of, ranker
from sharding.scatter.tables import Clause


@dataclass(frozen=True)
class Direction:
    """Which way a term goes. PostgreSQL counts NULL as the greatest value unless it is told otherwise."""

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
        """Give the element of ORDER BY."""
        clause = self.bare.desc() if self.direction.is_descending else self.bare.asc()
        match self.direction.nulls_first:
            case None:
                return clause
            case True:
                return clause.nulls_first()
            case False:
                return clause.nulls_last()

    def after(self, value: Any) -> Clause:
        """Give the condition that a row's value comes after a value."""
        if value is None:
            return self.clause.is_not(None) if self.direction.nulls_are_first else false()
        than = self.bind(value)
        beyond = self.bare < than if self.direction.is_descending else self.bare > than
        if self.is_nullable and not self.direction.nulls_are_first:
            return or_(beyond, self.clause.is_(None))
        return beyond

    def equals(self, value: Any) -> Clause:
        """Give the condition that a row's value is this one."""
        return self.clause.is_(None) if value is None else self.bare == self.bind(value)

    def sorter(self, index: int) -> Callable[[Any], Any]:
        """Give the key function for rows that have this term's value at `index`."""
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
        may_be_null: tells of an expression whether it may be NULL.

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
    """Give the condition that a row comes after a position of the order.

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
