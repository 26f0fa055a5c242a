"""A change of a table's schema, in steps of which each is done wholly or not at all."""

from dataclasses import dataclass

from partitions.sql import literal


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a change.

    Parameters:
        summary: what is done, in a few words.
        statements: the SQL, run in one transaction unless `alone`.
        done: a query that gives true when nothing is left to do; so a killed run is resumed.
        alone: the statements are refused in a transaction (CONCURRENTLY). They hold up nobody, and wait for
            older transactions as long as that takes.
    """

    summary: str
    statements: tuple[str, ...]
    done: str
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """A change and what undoes it.

    Parameters:
        table: the table that is changed.
        summary: what is changed, in a few words.
        steps: how, in order.
        undo: the steps back; empty where there is no way back.
    """

    table: str
    summary: str
    steps: tuple[Step, ...]
    undo: tuple[Step, ...] = ()

    def reverse(self) -> "Change":
        """Give the change that undoes this one.

        Raises:
            ValueError: there is no way back.
        """
        if not self.undo:
            raise ValueError(f"{self.table}: {self.summary}: there is no way back")
        return Change(self.table, f"undo: {self.summary}", steps=self.undo, undo=self.steps)


def has_constraint(table: str, constraint: str, *, validated: bool = False) -> str:
    """Render the query whether a constraint stands."""
    return (
        f"SELECT EXISTS (SELECT FROM pg_constraint WHERE conrelid = {literal(table)}::regclass "
        f"AND conname = {literal(constraint)}{' AND convalidated' if validated else ''})"
    )


def has_column(table: str, column: str) -> str:
    """Render the query whether a column stands."""
    return (
        f"SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = {literal(table)}::regclass "
        f"AND attname = {literal(column)} AND NOT attisdropped)"
    )


def is_not_null(table: str, column: str) -> str:
    """Render the query whether a column is NOT NULL."""
    return (
        f"SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = {literal(table)}::regclass "
        f"AND attname = {literal(column)} AND attnotnull)"
    )


def either(*queries: str) -> str:
    """Render the query whether one of several gives true."""
    return "SELECT " + " OR ".join(f"({query})" for query in queries)


def negated(query: str) -> str:
    """Render the query whether another gives false."""
    return f"SELECT NOT ({query})"
