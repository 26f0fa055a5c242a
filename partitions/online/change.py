"""A change of a table's schema, in steps of which each is done wholly or not at all."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from partitions.sql import RelationName, dollar_quoted, identifier, literal
from partitions.steps import raise_if

MARK = "mes-storage: online change: "
"""Begins the comment of what a change makes and takes away again, so that its origin is known."""


@dataclass(frozen=True, slots=True)
class ChangeStep:
    """A part of a change.

    Parameters:
        summary: what is done, in a few words.
        statements: the SQL, run in one transaction unless `autocommit`.
        done: a query that returns true when nothing is left to do; so a killed run is resumed.
        autocommit: the statements are refused in a transaction (CONCURRENTLY). They block no session and
            wait for older transactions as long as that takes.
        cleanup: removes what an attempt left that was cut off.
    """

    summary: str
    statements: tuple[str, ...]
    done: str
    autocommit: bool = False
    cleanup: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Precondition:
    """What must hold before a change may begin.

    Parameters:
        query: returns true when it holds.
        otherwise: what is wrong when it does not, and what to do first.
        detail: a query that returns the end of `otherwise`: what is in the way, by name.
    """

    query: str
    otherwise: str
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class ObjectNames:
    """Which names a change takes for what it makes.

    Parameters:
        taken: a query that returns what an object is that has such a name and is not the change's; else NULL.
        choose: plans the change for the table as it was found, with other names from 1 on; None where a
            person chose the name.
    """

    taken: str
    choose: Callable[[RelationName, int], "Change | None"]


@dataclass(frozen=True, slots=True)
class Change:
    """A change and what undoes it.

    Parameters:
        table: the table that is changed.
        summary: what is changed, in a few words.
        steps: how, in order.
        undo: the steps back; empty where there is no way back.
        preconditions: what must hold before the first step.
        undo_preconditions: what must hold before the first step back.
        names: the names of what it makes, where they could be another's.
    """

    table: str
    summary: str
    steps: tuple[ChangeStep, ...]
    undo: tuple[ChangeStep, ...] = ()
    preconditions: tuple[Precondition, ...] = ()
    undo_preconditions: tuple[Precondition, ...] = ()
    names: ObjectNames | None = None

    def reverse(self) -> "Change":
        """Return the change that undoes this one.

        Raises:
            ValueError: there is no way back.
        """
        if not self.undo:
            raise ValueError(f"{self.table}: {self.summary}: there is no way back")
        return Change(
            self.table,
            f"undo: {self.summary}",
            steps=self.undo,
            undo=self.steps,
            preconditions=self.undo_preconditions,
            undo_preconditions=self.preconditions,
            names=None if self.names is None else _reversed(self.names),
        )


def _reversed(names: ObjectNames) -> ObjectNames:
    def choose(table: RelationName, number: int) -> Change | None:
        change = names.choose(table, number)
        return None if change is None else change.reverse()

    return replace(names, choose=choose)


def name_is_free(taken: str) -> Precondition:
    """Return the precondition that nothing else has the name of what a change makes.

    Parameters:
        taken: returns what has it; see `ObjectNames`.
    """
    return Precondition(f"SELECT ({taken}) IS NULL", "nothing was done: the name is taken by ", detail=taken)


def first_unmet(ask: Callable[[str], object], preconditions: Iterable[Precondition]) -> str | None:
    """Return what is wrong first; None when all preconditions hold.

    Parameters:
        ask: returns the value of a query.
        preconditions: what must hold.
    """
    for precondition in preconditions:
        if not ask(precondition.query):
            return precondition.otherwise + (
                "" if precondition.detail is None else str(ask(precondition.detail))
            )
    return None


def raise_unmet(precondition: Precondition) -> str:
    """Render the statement that ends everything with an error unless a need holds."""
    refuse = raise_if(f"NOT ({precondition.query})", precondition.otherwise, detail=precondition.detail)
    # A column may be called `found`, which is PL/pgSQL's as well.
    return "DO " + dollar_quoted(f"\n#variable_conflict use_column\nBEGIN\n    {refuse};\nEND ", "need")


def mark(kind: str, name: str, change: str) -> str:
    """Render the comment that says which change an object belongs to."""
    return f"COMMENT ON {kind} {name} IS {literal(MARK + change)}"


def unmark(kind: str, name: str) -> str:
    """Render the end of that comment: the object is there to stay."""
    return f"COMMENT ON {kind} {name} IS NULL"


def has_constraint(table: RelationName, definition: str, *, name: str | None, validated: bool = False) -> str:
    """Render the query whether a constraint stands, under a name or any, that is what it should be.

    Parameters:
        table: its table.
        definition: an expression that returns what PostgreSQL prints of it when it is validated.
        name: its name.
        validated: whether the rows that stand must have been checked.
    """
    named = "" if name is None else f" AND conname = {literal(name)}"
    return (
        f"SELECT EXISTS (SELECT FROM pg_constraint WHERE conrelid = {table.regclass}{named} "
        f"AND replace(pg_get_constraintdef(oid), ' NOT VALID', '') = {definition}"
        f"{' AND convalidated' if validated else ''})"
    )


def has_column(table: RelationName, column: str) -> str:
    """Render the query whether a column stands that a change has made, and takes away or over."""
    return has_columns(table, column, f"starts_with(col_description(attrelid, attnum), {literal(MARK)})")


def is_not_null(table: RelationName, column: str) -> str:
    """Render the query whether a column is NOT NULL, and that not NOT VALID (since PostgreSQL 18)."""
    unchecked = (
        "EXISTS (SELECT FROM pg_constraint "
        "WHERE conrelid = attrelid AND contype = 'n' AND attnum = ANY (conkey) AND NOT convalidated)"
    )
    return has_columns(table, column, f"attnotnull AND NOT {unchecked}")


def has_columns(table: RelationName, column: str, condition: str) -> str:
    """Render the query whether a column stands of which a condition holds."""
    return (
        f"SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = {table.regclass} "
        f"AND attname = {literal(column)} AND attnum > 0 AND NOT attisdropped AND {condition})"
    )


def quoted(columns: tuple[str, ...]) -> str:
    """Write columns as they stand in SQL."""
    return ", ".join(map(identifier, columns))


def either(*queries: str) -> str:
    """Render the query whether one of several returns true."""
    return "SELECT " + " OR ".join(f"({query})" for query in queries)


def both(*queries: str) -> str:
    """Render the query whether all of several give true."""
    return "SELECT " + " AND ".join(f"({query})" for query in queries)


def negated(query: str) -> str:
    """Render the query whether another returns false."""
    return f"SELECT NOT coalesce(({query}), false)"
