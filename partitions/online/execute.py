"""The one place where online changes reach a database.

`partitions.execute` does the same for actions on partitions; its retry and its statement of who is in the way
are to serve here as well.
"""

import random
import time
from collections.abc import Callable

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from partitions.online.change import Change, Step
from partitions.online.errors import OnlineChangeRefused, TableBusy

Report = Callable[[Step], None]

# Of two runs at once, the second waits and then finds nothing left to do.
_LOCK = text("SELECT pg_advisory_lock(hashtext('mes-storage online changes'))")
_BUSY = {"55P03", "40P01"}  # no lock in time, a deadlock

_HOLDERS = text("""
    SELECT format('pid %s (%s): %s', pid, state, left(query, 100))
    FROM (SELECT DISTINCT pid FROM pg_locks WHERE granted AND relation = to_regclass(:table)) AS holder
    JOIN pg_stat_activity USING (pid) WHERE pid <> pg_backend_pid() ORDER BY pid
""")


def apply(
    engine: Engine,
    change: Change,
    *,
    lock_timeout_seconds: float = 3.0,
    attempts: int = 20,
    pause_seconds: float = 1.0,
    report: Report | None = None,
    sleep: Callable[[float], None] = time.sleep,
    jitter: Callable[[], float] = random.random,
) -> list[Step]:
    """Do what of a change is not done yet.

    Parameters:
        engine: connects as the table's owner, and not through a transaction pooler: it takes a session lock.
        change: what is wanted.
        lock_timeout_seconds: how long an application's query may be held up.
        attempts: how often a step may be tried that finds its lock taken.
        pause_seconds: how long to wait between two attempts, on average.
        report: is told of each step that was done.
        sleep: waits so many seconds.
        jitter: gives a number from 0 to 1, so that two runs do not keep step.

    Returns:
        the steps that were done; none, when all was done before.

    Raises:
        OnlineChangeRefused: PostgreSQL refused a step.
        TableBusy: a lock was not free in any attempt; the error names who holds it.
    """
    done = []

    def pause() -> None:
        sleep(pause_seconds * (0.5 + jitter()))

    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.detach()  # it is closed afterwards, not pooled: that releases the lock, come what may
        connection.execute(_LOCK)
        for step in change.steps:
            if connection.scalar(text(step.done)):
                continue
            _insist(connection, change.table, step, lock_timeout_seconds, attempts=attempts, pause=pause)
            done.append(step)
            if report is not None:
                report(step)
    return done


def render(change: Change, *, lock_timeout_seconds: float = 3.0) -> str:
    """Give the script that `apply` would run on a table of which nothing is done yet, as psql accepts it."""
    parts = (
        f"-- {change.table}: {step.summary}\n"
        + "".join(f"{line};\n" for line in _lines(step, lock_timeout_seconds))
        for step in change.steps
    )
    return "\n".join(parts)


def _lines(step: Step, lock_timeout_seconds: float) -> tuple[str, ...]:
    if step.alone:
        # Cut off, it would leave half an index; and nobody queues behind it.
        return ("SET lock_timeout = 0", *step.statements, "RESET lock_timeout")
    # Who comes later queues behind us from the moment we queue: waiting and work together are what an
    # application's query is held up, so the wait gets a half.
    half = f"SET LOCAL lock_timeout = '{max(1, round(lock_timeout_seconds * 500))}ms'"
    return ("BEGIN", half, *step.statements, "COMMIT")


def _insist(
    connection: Connection,
    table: str,
    step: Step,
    lock_timeout_seconds: float,
    *,
    attempts: int,
    pause: Callable[[], None],
) -> None:
    """Try a step until its lock is free, or the attempts are used up."""
    left = attempts
    while fault := _try(connection, step, lock_timeout_seconds):
        left -= 1
        if getattr(fault.orig, "sqlstate", None) not in _BUSY:
            raise OnlineChangeRefused(table, step.summary, str(fault.orig).strip()) from fault
        if left == 0:
            holders = list(connection.scalars(_HOLDERS, {"table": table}))
            raise TableBusy(table, step.summary, attempts=attempts, holders=holders) from fault
        pause()


def _try(connection: Connection, step: Step, lock_timeout_seconds: float) -> DBAPIError | None:
    try:
        for line in _lines(step, lock_timeout_seconds):
            connection.execute(text(line.replace(":", r"\:")))
    except DBAPIError as fault:
        if fault.connection_invalidated:
            raise
        connection.exec_driver_sql("ROLLBACK")
        return fault
    return None
