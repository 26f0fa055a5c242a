"""A change of a table's schema, in steps of which each is done wholly or not at all."""

from dataclasses import dataclass

from partitions.sql import literal

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
    """

    query: str
    otherwise: str


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
    """

    table: str
    summary: str
    steps: tuple[Step, ...]
    undo: tuple[Step, ...] = ()
    needs: tuple[Need, ...] = ()
    undo_needs: tuple[Need, ...] = ()

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
        )


def mark(kind: str, name: str, change: str) -> str:
    """Render the comment that says which change an object belongs to."""
    return f"COMMENT ON {kind} {name} IS {literal(MARK + change)}"


def unmark(kind: str, name: str) -> str:
    """Render the end of that comment: the object is there to stay."""
    return f"COMMENT ON {kind} {name} IS NULL"


def has_constraint(table: str, constraint: str, *, validated: bool = False) -> str:
    """Render the query whether a constraint stands."""
    return (
        f"SELECT EXISTS (SELECT FROM pg_constraint WHERE conrelid = to_regclass({literal(table)}) "
        f"AND conname = {literal(constraint)}{' AND convalidated' if validated else ''})"
    )


def has_column(table: str, column: str) -> str:
    """Render the query whether a column stands."""
    return _column(table, column, "NOT attisdropped")


def is_not_null(table: str, column: str) -> str:
    """Render the query whether a column is NOT NULL."""
    return _column(table, column, "attnotnull")


def has_type(table: str, column: str, kind: str) -> str:
    """Render the query whether a column has a type, as PostgreSQL prints it."""
    return _column(table, column, f"format_type(atttypid, atttypmod) = {literal(kind)}")


def _column(table: str, column: str, condition: str) -> str:
    return (
        f"SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass({literal(table)}) "
        f"AND attname = {literal(column)} AND {condition})"
    )


def either(*queries: str) -> str:
    """Render the query whether one of several gives true."""
    return "SELECT " + " OR ".join(f"({query})" for query in queries)


def both(*queries: str) -> str:
    """Render the query whether all of several give true."""
    return "SELECT " + " AND ".join(f"({query})" for query in queries)


def negated(query: str) -> str:
    """Render the query whether another gives false."""
    return f"SELECT NOT ({query})"
