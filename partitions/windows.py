"""Reading a whole table in windows of its key: each statement is short, whatever the size of the table."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from partitions.sql import identifier

Found = TypeVar("Found")

QUERY_CANCELED = "57014"


@dataclass(frozen=True, slots=True)
class Window:
    """Keys after `after`, through `last`; None has no end."""

    after: int | None = None
    last: int | None = None

    def holds(self, column: str) -> str:
        """Render the condition that a column's value is in it."""
        ends = []
        if self.after is not None:
            ends.append(f"{column} > {self.after}")
        if self.last is not None:
            ends.append(f"{column} <= {self.last}")
        return " AND ".join(ends) or "true"


@dataclass(frozen=True, slots=True)
class Size:
    """How many rows a window has at first, and at least, where the server's statement_timeout is short."""

    rows: int = 50_000
    fewest_rows: int = 100


def walk(
    connection: Connection, source: str, key: str, look: Callable[[Window], Found], *, size: Size
) -> Iterator[tuple[int, Found]]:
    """Look at a table window by window, in the order of its key.

    A window that statement_timeout cuts off is halved and tried again, and so are those after it.

    Parameters:
        connection: in autocommit, so that no statement holds up vacuum for the time of all.
        source: what stands behind FROM; it has an index that begins with the key.
        key: an integer column.
        look: is given each window.
        size: how large windows are.

    Returns:
        how many rows a window has at most, and what `look` gave.

    Raises:
        DBAPIError: even the smallest window takes longer than statement_timeout.
    """
    after, rows = None, size.rows
    while True:
        try:
            window = Window(after, _last_of(connection, source, key, after, rows))
            found = look(window)
        except DBAPIError as fault:
            if getattr(fault.orig, "sqlstate", None) != QUERY_CANCELED or rows <= size.fewest_rows:
                raise
            rows = max(rows // 2, size.fewest_rows)
            continue
        yield rows, found
        if window.last is None:
            return
        after = window.last


def _last_of(connection: Connection, source: str, key: str, after: int | None, rows: int) -> int | None:
    column = identifier(key)
    beginning = Window(after).holds(column)
    query = f"SELECT {column} FROM {source} WHERE {beginning} ORDER BY {column} OFFSET {rows - 1} LIMIT 1"
    last: int | None = connection.exec_driver_sql(query).scalar()
    return last
