"""What the guard of a shard cannot see: an UPDATE that finds no row, and a DELETE. They are asked about.

The guard is a CHECK, and a CHECK looks at rows that are written. A writer with an old map, whose bucket has
moved away, would find nothing and be told that all is well. So after such a statement the shard is asked
whether it owns the keys (`guard.ASK_OWNERSHIP`), in the same transaction: a round trip more.
"""

from collections.abc import Iterable
from typing import Any

from sharding.ownership import ASK_OWNERSHIP

_NO_ROW = frozenset({"UPDATE 0", "INSERT 0 0"})


def is_unguarded(cursor: Any, *, sent: int = 1) -> bool:
    """Tell whether a statement may have met the absence of its rows, or has taken rows away.

    Parameters:
        cursor: it has just run the statement; the server's tag (`UPDATE 0`) tells of text() too.
        sent: how many sets of parameters it has run with.
    """
    said = getattr(cursor, "_cursor", cursor).statusmessage or ""
    if said.startswith(("DELETE", "MERGE")) or said in _NO_ROW:
        return True
    return sent > 1 and said.startswith("UPDATE") and bool(cursor.rowcount < sent)


def ask(connection: Any, keys: Iterable[int]) -> None:
    """Ask the shard whether it owns some keys.

    Parameters:
        connection: SQLAlchemy's, in the transaction of the statement.
        keys: those that the statement has named.

    Raises:
        psycopg.Error: SQLSTATE MS001, it does not.
    """
    cursor = connection.connection.cursor()
    try:
        cursor.execute(ASK_OWNERSHIP, {"keys": list(keys)})
    finally:
        cursor.close()
