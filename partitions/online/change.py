"""A change of a table's schema, in steps of which each is done wholly or not at all."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from partitions.sql import RelationName, dollar_quoted, identifier, literal
from partitions.steps import refuse_if

MARK = "mes-storage: online change: "
"""Begins the comment of what a change makes and takes away again, so that nobody wonders whose it is."""


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a change.

    Parameters:
        summary: what is done, in a few words.
        statements: the SQL, run in one transaction unless `alone`.
        done: a query that gives true when nothing is left to do; so a killed run is resumed.
        alone: the statements are refused in a transaction (CONCURRENTLY). They hold up nobody, and wait for
            older transactions as long as that takes.
        cleanup: removes what an attempt left that was cut off.
    """

    summary: str
    statements: tuple[str, ...]
    done: str
    alone: bool = False
    cleanup: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Need:
    """What must hold before a change may begin.

    Parameters:
        query: gives true when it holds.
        otherwise: what is wrong when it does not, and what to do first.
        detail: a query that gives the end of `otherwise`: what is in the way, by name.
    """

    query: str
    otherwise: str
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Names:
    """Which names a change takes for what it makes.

    Parameters:
        taken: a query that gives what an object is that has such a name and is not the change's; else NULL.
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
        needs: what must hold before the first step.
        undo_needs: what must hold before the first step back.
        names: the names of what it makes, where they could be another's.
    """

    table: str
    summary: str
    steps: tuple[Step, ...]
    undo: tuple[Step, ...] = ()
    needs: tuple[Need, ...] = ()
    undo_needs: tuple[Need, ...] = ()
    names: Names | None = None

    def reverse(self) -> "Change":
        """Give the change that undoes this one.

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
            needs=self.undo_needs,
            undo_needs=self.needs,
            names=None if self.names is None else _reversed(self.names),
        )


def _reversed(names: Names) -> Names:
    def choose(table: RelationName, number: int) -> Change | None:
        change = names.choose(table, number)
        return None if change is None else change.reverse()

    return replace(names, choose=choose)


def name_is_free(taken: str) -> Need:
    """Return the need that nothing else has the name of what a change makes.

    Parameters:
        taken: gives what has it; see `Names`.
    """
    return Need(f"SELECT ({taken}) IS NULL", "nothing was done: the name is taken by ", detail=taken)


def first_unmet(ask: Callable[[str], object], needs: Iterable[Need]) -> str | None:
    """Return what is wrong first; None when all needs hold.

    Parameters:
        ask: gives the value of a query.
        needs: what must hold.
    """
    for need in needs:
        if not ask(need.query):
            return need.otherwise + ("" if need.detail is None else str(ask(need.detail)))
    return None


def refuse_unmet(need: Need) -> str:
    """Render the statement that ends everything with an error unless a need holds."""
    refuse = refuse_if(f"NOT ({need.query})", need.otherwise, detail=need.detail)
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
        definition: an expression that gives what PostgreSQL prints of it when it is validated.
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
    """Render the query whether one of several gives true."""
    return "SELECT " + " OR ".join(f"({query})" for query in queries)


def both(*queries: str) -> str:
    """Render the query whether all of several give true."""
    return "SELECT " + " AND ".join(f"({query})" for query in queries)


def negated(query: str) -> str:
    """Render the query whether another gives false."""
    return f"SELECT NOT coalesce(({query}), false)"
