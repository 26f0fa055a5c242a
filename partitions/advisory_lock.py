"""Advisory locks: one session at a time changes the partitions of a database, migrates it, or does the like.

A lock is polled for, and never waited for. A statement that waits has a snapshot, and the session that holds
the lock may be building an index concurrently, which waits for every older snapshot of the database.
PostgreSQL ends such a deadlock by failing the build.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, TextClause, text

from partitions.errors import Blocker, PartitionsBusy
from partitions.sql import literal
from partitions.steps import LockTimeouts, do_block

PARTITIONS = "hashtext('mes-storage partitions')"
"""The key of the lock that every change of a database's partitions holds, as SQL."""

POLL_SECONDS = 0.2
"""The longest pause between two attempts to take a lock."""

SESSIONS = """
    SELECT pid, coalesce(usename, '?') AS role, coalesce(application_name, '') AS application,
           coalesce(state, 'in an unknown state') AS state,
           -- a session idle in its transaction blocks since that began
           extract(epoch FROM clock_timestamp()
                   - coalesce(xact_start, query_start, backend_start)) AS seconds,
           -- of another role's session PostgreSQL shows no more than the pid and the role
           CASE WHEN query = '<insufficient privilege>'
                THEN 'its query is hidden: GRANT pg_read_all_stats TO ' || current_user
                ELSE regexp_replace(left(query, 200), '\\s+', ' ', 'g') END AS query
    FROM pg_stat_activity
"""
"""The sessions of the server, with what `Blocker` has of each; a condition may follow."""

_HOLDERS = f"""{SESSIONS} JOIN pg_locks USING (pid)
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
      AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (classid::bigint << 32 | objid::bigint) = {PARTITIONS}::bigint
"""

# In words, for a script: as `str(Blocker)` says it.
_HOLDERS_TEXT = f"""SELECT string_agg(concat(
        'pid ', pid, ' (', role, ', ', coalesce(nullif(application, ''), 'no application_name'), '), ', state,
        ' for ', round(seconds), ' s: ', query), '; ')
    FROM ({_HOLDERS}) AS holder"""

Sleep = Callable[[float], None]


def try_acquire_sql(key: str, *, until_commit: bool) -> str:
    """Render the expression that takes a lock if it is free, and is false if another session holds it.

    Parameters:
        key: an SQL expression of type bigint; the lock is one of the current database.
        until_commit: the lock ends with the transaction; otherwise with the session.
    """
    return f"pg_try_advisory{'_xact' if until_commit else ''}_lock({key})"


def wait_until_commit_sql(key: str) -> str:
    """Return the statement that waits for the lock of a key, and holds it until the transaction ends."""
    return f"SELECT pg_advisory_xact_lock({key})"


def poll_until(try_once: Callable[[], bool], *, wait_seconds: float, sleep: Sleep = time.sleep) -> bool:
    """Poll for a lock until it is taken or the time is over; return whether it was taken.

    Parameters:
        try_once: an attempt that does not wait, and leaves no transaction open: an idle one has its snapshot.
        wait_seconds: how long another session is waited for.
        sleep: waits so many seconds.
    """
    ends_at = time.monotonic() + wait_seconds
    while not try_once():
        if time.monotonic() >= ends_at:
            return False
        sleep(POLL_SECONDS * (0.5 + random.random() / 2))
    return True


def acquire(connection: Connection, *, wait_seconds: float) -> None:
    """Take the lock of this database's partitions, until the connection is closed.

    Parameters:
        connection: in autocommit, and not through a transaction pooler.
        wait_seconds: how long another session is waited for.

    Raises:
        PartitionsBusy: another session held the lock for longer.
    """
    query = f"SELECT {try_acquire_sql(PARTITIONS, until_commit=False)}"
    if not poll_until(lambda: bool(connection.exec_driver_sql(query).scalar()), wait_seconds=wait_seconds):
        raise PartitionsBusy(read_blockers(connection, text(_HOLDERS)), waited_seconds=wait_seconds)


@contextmanager
def hold(connection: Connection, *, wait_seconds: float) -> Iterator[None]:
    """Hold the lock in a block, on a connection that stays open; see `acquire`."""
    acquire(connection, wait_seconds=wait_seconds)
    try:
        yield
    finally:
        if not connection.invalidated and not connection.closed:
            connection.exec_driver_sql(release_sql())


def acquire_sql(timeouts: LockTimeouts, *, until_commit: bool) -> str:
    """Render a statement that takes the lock, or fails as a lock_timeout does and names its holders.

    Parameters:
        timeouts: it waits as long as for any other lock.
        until_commit: the lock ends with the transaction; otherwise with the session, or by `release_sql`.
    """
    attempt = try_acquire_sql(PARTITIONS, until_commit=until_commit)
    who = f"coalesce(({_HOLDERS_TEXT}), 'a session that has ended by now')"
    wait = literal(f"{round(timeouts.lock_timeout_seconds * 500)} ms")
    failure = literal("another session changes the partitions of this database: ")
    return do_block(
        f"DECLARE give_up_at constant timestamptz := clock_timestamp() + {wait}; BEGIN\n"
        f"        WHILE NOT {attempt} LOOP\n"
        "            IF clock_timestamp() > give_up_at THEN\n"
        f"                RAISE EXCEPTION USING ERRCODE = '55P03', MESSAGE = {failure} || {who};\n"
        "            END IF;\n"
        "            PERFORM pg_sleep(0.05);\n"
        "        END LOOP;\n"
        "    END"
    )


def release_sql() -> str:
    """Render the release of a lock that the session holds."""
    return f"SELECT pg_advisory_unlock({PARTITIONS})"


def read_blockers(connection: Connection, query: TextClause, **values: int) -> list[Blocker]:
    """Return the sessions that a query selects from `SESSIONS`."""
    return [
        Blocker(row.pid, row.role, row.application, row.state, float(row.seconds or 0), row.query)
        for row in connection.execute(query, values)
    ]
