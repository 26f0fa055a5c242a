"""One at a time: advisory locks that are asked for again and again, and never waited for.

A statement that waits has a snapshot, and who holds the lock may be building an index concurrently, which
waits for every older snapshot of the database. PostgreSQL ends such a deadlock by failing the build.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from partitions.blockers import HOLDERS, LOCK_KEY, holders_of_lock
from partitions.errors import Occupied
from partitions.sql import literal
from partitions.steps import Limits, block

PAUSE_SECONDS = 0.2
"""How long it takes at most until a lock is had that has become free."""

Sleep = Callable[[float], None]


def is_had(try_once: Callable[[], bool], *, wait_seconds: float, sleep: Sleep = time.sleep) -> bool:
    """Try for a lock until it is had, or the time is over; tell whether it was had.

    Parameters:
        try_once: a look that waits for nobody, and leaves no transaction open: an idle one has its snapshot.
        wait_seconds: how long another session is waited for.
        sleep: waits so many seconds.
    """
    ends_at = time.monotonic() + wait_seconds
    while not try_once():
        if time.monotonic() >= ends_at:
            return False
        sleep(PAUSE_SECONDS * (0.5 + random.random() / 2))
    return True


def take_turn(connection: Connection, *, wait_seconds: float) -> None:
    """Take the lock of this database's partitions, until the connection is closed.

    Parameters:
        connection: in autocommit, and not through a transaction pooler.
        wait_seconds: how long another session is waited for.

    Raises:
        Occupied: it held the lock for longer.
    """
    query = f"SELECT pg_try_advisory_lock({LOCK_KEY})"
    if not is_had(lambda: bool(connection.exec_driver_sql(query).scalar()), wait_seconds=wait_seconds):
        raise Occupied(holders_of_lock(connection), waited_seconds=wait_seconds)


@contextmanager
def turn(connection: Connection, *, wait_seconds: float) -> Iterator[None]:
    """Hold the lock for a while, on a connection that lives on; see `take_turn`."""
    take_turn(connection, wait_seconds=wait_seconds)
    try:
        yield
    finally:
        if not connection.invalidated and not connection.closed:
            connection.exec_driver_sql(release())


def take(limits: Limits, *, until_commit: bool) -> str:
    """Render a statement that takes the lock, or fails as a lock_timeout does and names who holds it.

    Parameters:
        limits: it waits as long as any other lock is waited for.
        until_commit: the lock ends with the transaction; otherwise with the session, or by `release`.
    """
    kind = "pg_try_advisory_xact_lock" if until_commit else "pg_try_advisory_lock"
    who = f"coalesce(({HOLDERS}), 'a session that has ended by now')"
    wait = literal(f"{round(limits.lock_timeout_seconds * 500)} ms")
    failure = literal("somebody else changes the partitions of this database: ")
    return block(
        f"DECLARE give_up_at constant timestamptz := clock_timestamp() + {wait}; BEGIN\n"
        f"        WHILE NOT {kind}({LOCK_KEY}) LOOP\n"
        "            IF clock_timestamp() > give_up_at THEN\n"
        f"                RAISE EXCEPTION USING ERRCODE = '55P03', MESSAGE = {failure} || {who};\n"
        "            END IF;\n"
        "            PERFORM pg_sleep(0.05);\n"
        "        END LOOP;\n"
        "    END"
    )


def release() -> str:
    """Render the end of a session's lock."""
    return f"SELECT pg_advisory_unlock({LOCK_KEY})"
