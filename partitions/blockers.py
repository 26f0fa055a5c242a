"""Who holds us up: pids, queries and how long, seen while we wait."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, TextClause, text

from partitions.errors import Blocker

_FACTS = """
    SELECT pid, coalesce(usename, '?') AS role, coalesce(application_name, '') AS application,
           coalesce(state, 'in an unknown state') AS state,
           -- a session idle in its transaction blocks since that began
           extract(epoch FROM clock_timestamp()
                   - coalesce(xact_start, query_start, backend_start)) AS seconds,
           -- of another role's session PostgreSQL tells no more than the pid and the role
           CASE WHEN query = '<insufficient privilege>'
                THEN 'its query is hidden: GRANT pg_read_all_stats TO ' || current_user
                ELSE regexp_replace(left(query, 200), '\\s+', ' ', 'g') END AS query
    FROM pg_stat_activity
"""

_BLOCKING = text(_FACTS + "WHERE pid = ANY (pg_blocking_pids(:pid)) ORDER BY seconds DESC")

LOCK_KEY = "hashtext('mes-storage partitions')"

_OF_LOCK = f"""JOIN pg_locks USING (pid)
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
      AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (classid::bigint << 32 | objid::bigint) = {LOCK_KEY}::bigint
"""
_HOLDING = text(_FACTS + _OF_LOCK)

# In words, for a script: as `str(Blocker)` says it.
HOLDERS = f"""SELECT string_agg(concat(
        'pid ', pid, ' (', role, ', ', coalesce(nullif(application, ''), 'no application_name'), '), ', state,
        ' for ', round(seconds), ' s: ', query), '; ')
    FROM ({_FACTS}{_OF_LOCK}) AS holder"""

FIRST_LOOK_SECONDS = 0.1


class Watch:
    """Remembers who blocked a session, as it was last seen."""

    def __init__(self) -> None:
        self.seen: Sequence[Blocker] = ()


@contextmanager
def watching(engine: Engine, pid: int) -> Iterator[Watch]:
    """Look for who blocks a session, from another one, until the block ends.

    Only while it waits can PostgreSQL tell. The first look comes late: most statements wait for nobody, and
    cost no connection.
    """
    watch, over = Watch(), threading.Event()
    thread = threading.Thread(target=_look, args=(engine, pid, watch, over), daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        over.set()
        thread.join()


def _look(engine: Engine, pid: int, watch: Watch, over: threading.Event) -> None:
    if over.wait(FIRST_LOOK_SECONDS):
        return
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while not over.is_set():
                watch.seen = _read(connection, _BLOCKING, pid=pid) or watch.seen
                over.wait(FIRST_LOOK_SECONDS)
    except Exception:
        return


def holders_of_lock(connection: Connection) -> Sequence[Blocker]:
    """Tell who holds the advisory lock of this database's partitions."""
    return _read(connection, _HOLDING)


def _read(connection: Connection, query: TextClause, **values: int) -> list[Blocker]:
    rows = connection.execute(query, values)
    return [
        Blocker(row.pid, row.role, row.application, row.state, float(row.seconds or 0), row.query)
        for row in rows
    ]
