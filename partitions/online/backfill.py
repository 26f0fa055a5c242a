"""Write to every row of a large table in short batches, along its primary key; killed, it resumes."""

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.errors import DeadlockDetected, LockNotAvailable, QueryCanceled, SerializationFailure
from sqlalchemy import Connection, CursorResult, Engine, text
from sqlalchemy.exc import DBAPIError

from partitions.errors import NoPrimaryKey, OnlineChangeRefused, PreconditionFailed
from partitions.executor import reason_of
from partitions.online.change import Precondition, first_unmet
from partitions.sql import RelationName, identifier, literal

PROGRESS_TABLE = "backfill_progress"
"""Where a backfill stands; it is no part of the models' schema."""


@dataclass(frozen=True, slots=True)
class Backfill:
    """What is written to which rows.

    Parameters:
        name: names the work in `backfill_progress`; a run of the same name resumes it.
        table: the table, as the catalogue has its name or as SQL has it.
        assign: what stands behind SET: `quantity_new = quantity::bigint`.
        where: which rows need it; a row that is right already is not written again.
        over: a query that returns true when the work is no longer needed, whatever `backfill_progress` says.
        preconditions: what must hold before it may begin.
    """

    name: str
    table: str
    assign: str
    where: str
    over: str | None = None
    preconditions: tuple[Precondition, ...] = ()


@dataclass(frozen=True, slots=True)
class Lag:
    """How far the replica that is furthest behind is behind."""

    lag_bytes: int
    lag_seconds: float


@dataclass(frozen=True, slots=True)
class BackfillResult:
    """What a run did. `finished` is false when its time or its rows were used up first."""

    rows_seen: int
    rows_written: int
    finished: bool

    def plus(self, batch: "BackfillResult") -> "BackfillResult":
        """Return what was done with another batch."""
        seen, written = self.rows_seen + batch.rows_seen, self.rows_written + batch.rows_written
        return BackfillResult(seen, written, batch.finished)


CREATE_PROGRESS = f"""
    CREATE TABLE IF NOT EXISTS {PROGRESS_TABLE} (
        name        text PRIMARY KEY,
        last_key    text[],
        rows_seen   bigint NOT NULL DEFAULT 0,
        finished_at timestamptz
    )
""".strip()
_BEGIN = text(f"INSERT INTO {PROGRESS_TABLE} (name) VALUES (:name) ON CONFLICT (name) DO NOTHING")
# Under a lock: of two runs at once, the second goes on where the first one is.
_READ = text(f"SELECT last_key, finished_at FROM {PROGRESS_TABLE} WHERE name = :name FOR UPDATE")
_SAVE = text(f"""
    UPDATE {PROGRESS_TABLE}
    SET last_key = coalesce(:last_key, last_key), rows_seen = rows_seen + :seen,
        finished_at = CASE WHEN :finished THEN now() END
    WHERE name = :name
""")
_KEY = text("""
    SELECT attname, format_type(atttypid, atttypmod) AS type
    FROM pg_index CROSS JOIN unnest(indkey) WITH ORDINALITY AS part (attnum, place)
    JOIN pg_attribute ON attrelid = indrelid AND pg_attribute.attnum = part.attnum
    WHERE indrelid = to_regclass(:table) AND indisprimary AND place <= indnkeyatts ORDER BY place
""")

# A row's lock, a deadlock, a row that moved to another partition, longer than the role's statement_timeout.
_RETRYABLE = (LockNotAvailable, DeadlockDetected, SerializationFailure, QueryCanceled)


def backfill(
    engine: Engine,
    task: Backfill,
    *,
    batch_rows: int = 1_000,
    max_rows: int | None = None,
    max_seconds: float | None = None,
    lock_timeout_seconds: float = 1.0,
    attempts: int = 20,
    lag: Callable[[], Lag] | None = None,
    max_lag_bytes: int = 16 * 1024 * 1024,
    max_lag_seconds: float = 5.0,
    pause_seconds: float = 0.2,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    jitter: Callable[[], float] = random.random,
    report: Callable[[BackfillResult], None] | None = None,
) -> BackfillResult:
    """Go on with a backfill until it is finished, or its bounds are reached.

    Parameters:
        engine: connects as a role that may write the table and make `backfill_progress`.
        task: what is written to which rows.
        batch_rows: rows in a transaction; their locks are held until it ends.
        max_rows: how many rows this run may look at.
        max_seconds: how long this run may take; a batch that has begun is finished.
        lock_timeout_seconds: how long a batch may wait for a row that the application holds.
        attempts: how often a batch is tried that found a row locked; it is halved each time.
        lag: measures the replicas before each batch; None does not care for them.
        max_lag_bytes: further behind than this, the backfill waits.
        max_lag_seconds: further behind than this, the backfill waits.
        pause_seconds: between two attempts or two looks at the replicas, on average.
        clock: returns seconds that only rise.
        sleep: waits so many seconds.
        jitter: returns a number from 0 to 1.
        report: is called after each batch with the sums of this run.

    Raises:
        PreconditionFailed: what must come before has not been done.
        NoPrimaryKey: there is nothing to go along.
        OnlineChangeRefused: PostgreSQL refused a batch; those before it stay.
    """
    if not _may_begin(engine, task):
        return BackfillResult(0, 0, finished=True)
    ends_at = math.inf if max_seconds is None else clock() + max_seconds
    most_rows = math.inf if max_rows is None else max_rows
    key, size, done = (
        _prepare(engine, task),
        _Size(batch_rows, attempts),
        BackfillResult(0, 0, finished=False),
    )
    while not done.finished and done.rows_seen < most_rows and clock() < ends_at:
        rows = int(min(size.rows, most_rows - done.rows_seen))
        if not _is_beyond(lag, max_lag_bytes, max_lag_seconds):
            try:
                batch = _run_batch(engine, task, key, rows, lock_timeout_seconds)
            except DBAPIError as fault:
                size.shrink(task, fault)
            else:
                size.grow()
                done = done.plus(batch)
                if report is not None:
                    report(done)
                continue
        sleep(pause_seconds * (0.5 + jitter()))
    return done


def _may_begin(engine: Engine, task: Backfill) -> bool:
    """Return whether there is anything left to do."""
    with engine.connect() as connection:
        if task.over is not None and run_plain(connection, task.over).scalar():
            return False
        unmet = first_unmet(lambda query: run_plain(connection, query).scalar(), task.preconditions)
    if unmet is not None:
        raise PreconditionFailed(task.table, f"backfill {task.name}", unmet)
    return True


def run_plain(connection: Connection, sql: str) -> CursorResult[Any]:
    """Run SQL of which no part is a parameter: names may have any sign in them."""
    return connection.exec_driver_sql(sql, execution_options={"no_parameters": True})


def _is_beyond(lag: Callable[[], Lag] | None, max_lag_bytes: int, max_lag_seconds: float) -> bool:
    found = lag() if lag else Lag(0, 0.0)
    return found.lag_bytes > max_lag_bytes or found.lag_seconds > max_lag_seconds


class _Size:
    """How many rows the next batch has: half as many after each that found a row locked."""

    def __init__(self, batch_rows: int, attempts: int) -> None:
        self.rows = self._most = batch_rows
        self._left = self._attempts = attempts

    def grow(self) -> None:
        self.rows, self._left = min(self._most, self.rows * 2), self._attempts

    def shrink(self, task: Backfill, fault: DBAPIError) -> None:
        self.rows, self._left = max(1, self.rows // 2), self._left - 1
        if self._left == 0 or not isinstance(fault.orig, _RETRYABLE):
            raise OnlineChangeRefused(task.table, f"backfill {task.name}", reason_of(fault)) from fault


@dataclass(frozen=True, slots=True)
class _Key:
    names: Sequence[str]
    types: Sequence[str]


def render_batch(task: Backfill, key: _Key, last_key: Sequence[str] | None, rows: int) -> str:
    """Render one batch: the next rows along the key, of which those are written that need it.

    Parameters:
        task: what is written to which rows.
        key: the primary key.
        last_key: the key of the last row before, each part as text; None begins at the first row.
        rows: how many rows it looks at.
    """
    table, columns = RelationName.of(task.table), [identifier(name) for name in key.names]
    names = ", ".join(columns)
    # Names of their own: `assign` and `where` may say a key column without its table.
    aliases = [f"backfill_key{place}" for place in range(len(columns))]
    chosen = ", ".join(f"{name} AS {alias}" for name, alias in zip(columns, aliases, strict=True))
    after = ", ".join(
        f"CAST({literal(part)} AS {kind})" for part, kind in zip(last_key or (), key.types, strict=False)
    )
    beyond = "" if last_key is None else f"WHERE ({names}) > ({after})"
    same = " AND ".join(f"target.{name} = {alias}" for name, alias in zip(columns, aliases, strict=True))
    texts = ", ".join(f"CAST({alias} AS text)" for alias in aliases)
    last = ", ".join(f"{alias} DESC" for alias in aliases)
    return f"""
        WITH batch AS (SELECT {chosen} FROM {table} {beyond} ORDER BY {names} LIMIT {rows}),
        changed AS (
            UPDATE {table} AS target SET {task.assign} FROM batch WHERE {same} AND ({task.where}) RETURNING 1
        )
        SELECT (SELECT count(*) FROM batch) AS seen, (SELECT count(*) FROM changed) AS written,
               (SELECT ARRAY[{texts}] FROM batch ORDER BY {last} LIMIT 1) AS last_key
    """


def _prepare(engine: Engine, task: Backfill) -> _Key:
    with engine.begin() as connection:
        key = connection.execute(_KEY, {"table": str(RelationName.of(task.table))}).all()
        if not key:
            raise NoPrimaryKey(task.table)
        connection.exec_driver_sql(CREATE_PROGRESS)
        connection.execute(_BEGIN, {"name": task.name})
    return _Key([row.attname for row in key], [row.type for row in key])


def _run_batch(
    engine: Engine, task: Backfill, key: _Key, rows: int, lock_timeout_seconds: float
) -> BackfillResult:
    with engine.begin() as connection:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{round(lock_timeout_seconds * 1000)}ms'")
        # Rows that a policy hides from this role are an error, and not left out.
        connection.exec_driver_sql("SET LOCAL row_security = off")
        last_key, finished_at = connection.execute(_READ, {"name": task.name}).one()
        if finished_at is not None:
            return BackfillResult(0, 0, finished=True)
        return _write(connection, task, key, rows, last_key)


def _write(
    connection: Connection, task: Backfill, key: _Key, rows: int, last_key: Sequence[str] | None
) -> BackfillResult:
    batch = run_plain(connection, render_batch(task, key, last_key, rows)).one()
    finished = batch.seen < rows
    saved = {"name": task.name, "last_key": batch.last_key, "seen": batch.seen, "finished": finished}
    connection.execute(_SAVE, saved)
    return BackfillResult(batch.seen, batch.written, finished)
