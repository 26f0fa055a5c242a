"""The archive job: finished rows leave the live tables for their monthly archive, batch by batch.

A batch is one transaction, so a job that is killed at any point has moved whole batches and nothing else;
the next run goes on with what is left. The job runs the SQL of a batch with parameters; a dry run prints it
with the variables of psql.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from partitions.errors import ArchiveBatchFailed, ArchiveColumnsDiffer, ArchiveCountMismatch
from partitions.executor import reason_of
from partitions.policy import ArchivePolicy

Columns = Mapping[str, tuple[str, ...]]
"""The columns of each live table, which its archive has too."""


def due_condition(policy: ArchivePolicy, cutoff: str) -> str:
    """Return the condition under which a row of the live table (named `live`) may leave.

    Parameters:
        policy: what is archived.
        cutoff: an SQL expression; rows that were finished before it are due.
    """
    owed = "".join(
        f"\n      AND NOT EXISTS (SELECT FROM {table} WHERE {table}.{policy.key} = live.{policy.key})"
        for table in policy.unless_exists
    )
    return f"live.{policy.finished_at} < {cutoff}{owed}"


def select_batch(policy: ArchivePolicy, *, cutoff: str, batch_rows: str, but: str | None = None) -> str:
    """Select the keys of a batch, those that were finished first, without a lock.

    Parameters:
        policy: what is archived.
        cutoff: an SQL expression; rows that were finished before it are due.
        batch_rows: how many at most.
        but: an array of keys that are left out.
    """
    others = "" if but is None else f"\n      AND live.{policy.key} <> ALL (CAST({but} AS bigint[]))"
    return (
        f"SELECT live.{policy.key}\n"
        f"    FROM {policy.live} AS live\n"
        f"    WHERE {due_condition(policy, cutoff)}{others}\n"
        f"    ORDER BY live.{policy.finished_at}\n"
        f"    LIMIT {batch_rows}"
    )


_LOCK = "FOR UPDATE OF live SKIP LOCKED"
"""SKIP LOCKED: the session that holds a row is working on it, and neither waits for the other."""


def lock_batch(policy: ArchivePolicy, *, cutoff: str, batch_rows: str) -> str:
    """Select and lock the keys of a batch, those that were finished first."""
    return f"{select_batch(policy, cutoff=cutoff, batch_rows=batch_rows)}\n    {_LOCK}"


def lock_key(policy: ArchivePolicy, *, cutoff: str, key: str) -> str:
    """Lock a row by its key, unless it is locked or is not due: where a lock may not be over many shards."""
    return (
        f"SELECT live.{policy.key}\n"
        f"    FROM {policy.live} AS live\n"
        f"    WHERE live.{policy.key} = {key}\n"
        f"      AND {due_condition(policy, cutoff)}\n"
        f"    {_LOCK}"
    )


def move_finished(policy: ArchivePolicy, columns: Columns, *, cutoff: str, keys: str) -> str:
    """Move the locked rows of the live table.

    The condition stands here again: while the lock was being taken, its last holder may have come to owe
    something. This statement sees that (READ COMMITTED), and under the lock no session can add to it.
    """
    return _move(policy, columns, policy.live, keys, f"\n      AND {due_condition(policy, cutoff)}")


def move_child(policy: ArchivePolicy, columns: Columns, live: str, *, keys: str) -> str:
    """Move the rows of a child table that belong to moved keys."""
    return _move(policy, columns, live, keys, "")


def _move(policy: ArchivePolicy, columns: Columns, live: str, keys: str, condition: str) -> str:
    # By name: the two tables need not have their columns in the same order.
    names = ", ".join(columns[live])
    return (
        f"WITH gone AS (\n"
        f"    DELETE FROM {live} AS live\n"
        f"    WHERE live.{policy.key} = ANY (CAST({keys} AS bigint[])){condition}\n"
        f"    RETURNING {names}\n"
        f"), kept AS (\n"
        f"    INSERT INTO {policy.moves[live]} ({names})\n"
        f"    SELECT {names} FROM gone\n"
        f"    RETURNING {policy.key}\n"
        f")\n"
        f"SELECT (SELECT count(*) FROM gone) AS deleted,\n"
        f"       (SELECT count(*) FROM kept) AS inserted,\n"
        f"       ARRAY(SELECT {policy.key} FROM kept) AS keys"
    )


def script(
    policy: ArchivePolicy, columns: Columns, *, cutoff: str, batch_rows: int, lock_by_key: bool = False
) -> str:
    """Return one batch as a script for psql; its `gset` carries the keys from one statement to the next.

    Parameters:
        policy: what is archived.
        columns: the columns of each live table.
        cutoff: an SQL literal.
        batch_rows: how many rows of the live table at most.
        lock_by_key: lock each row by a statement of its own.
    """
    keys = ":'keys'"
    lock = _lock_each if lock_by_key else _lock_at_once
    lines = [
        "BEGIN;",
        lock(policy, cutoff=cutoff, batch_rows=str(batch_rows)),
        f"{move_finished(policy, columns, cutoff=cutoff, keys=keys)} \\gset",
        *(f"{move_child(policy, columns, live, keys=keys)};" for live in policy.children),
        "COMMIT;",
    ]
    return "\n".join(lines) + "\n"


def _lock_at_once(policy: ArchivePolicy, *, cutoff: str, batch_rows: str) -> str:
    locked = lock_batch(policy, cutoff=cutoff, batch_rows=batch_rows)
    return (
        f"SELECT coalesce(array_agg({policy.key}), '{{}}') AS keys FROM (\n    {locked}\n) AS locked \\gset"
    )


def _lock_each(policy: ArchivePolicy, *, cutoff: str, batch_rows: str) -> str:
    lock = lock_key(policy, cutoff=cutoff, key="chosen").removeprefix("SELECT")
    return (
        f"DO $lock$\n"
        f"DECLARE chosen bigint; locked bigint[] := '{{}}';\n"
        f"BEGIN\n"
        f"    FOR chosen IN\n"
        f"    {select_batch(policy, cutoff=cutoff, batch_rows=batch_rows)}\n"
        f"    LOOP\n"
        f"    PERFORM{lock};\n"
        f"    IF FOUND THEN locked := locked || chosen; END IF;\n"
        f"    END LOOP;\n"
        f"    PERFORM set_config('archive.keys', locked::text, true);\n"
        f"END $lock$;\n"
        f"SELECT current_setting('archive.keys') AS keys \\gset"
    )


@dataclass(frozen=True, slots=True)
class ArchivedBatch:
    """What one transaction moved: rows by live table. `locked` is how many it had found."""

    locked: int
    rows: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ArchiveBacklog:
    """What stands past the grace period.

    `rows` can be moved, `owed` are held back by work that is still owed; `oldest_key` is the smallest key of
    the former, None when there are none.
    """

    rows: int
    owed: int
    oldest_key: int | None


Report = Callable[[ArchivedBatch], None]


def move(
    engine: Engine,
    policy: ArchivePolicy,
    now: datetime,
    *,
    batch_rows: int = 500,
    lock_by_key: bool = False,
    report: Report | None = None,
) -> Mapping[str, int]:
    """Move everything that is due now. The archive must have the months that the rows need.

    Parameters:
        engine: connects with data rights on the tables.
        policy: what is archived.
        now: the current instant; rows that were finished before `now - policy.grace` are due.
        batch_rows: how many rows of the live table a transaction moves at most.
        lock_by_key: choose the rows of a batch without a lock, and lock each by a statement of its own: for a
            database that refuses a lock over many shards, as Citus does.
        report: is called with each batch once it is committed.

    Returns:
        the rows moved, by live table.

    Raises:
        ArchiveColumnsDiffer: a live table and its archive have different columns.
        ArchiveCountMismatch: not every deleted row was inserted.
        ArchiveBatchFailed: PostgreSQL refused a batch, for want of a month for example.
    """
    cutoff = now - policy.grace
    totals = dict.fromkeys(policy.moves, 0)
    lock = _EachByKey(policy, cutoff) if lock_by_key else _AllAtOnce(policy, cutoff)
    with engine.connect() as connection:
        columns = read_columns(connection, policy)
        connection.rollback()
        while True:
            batch = _move_batch(connection, policy, columns, cutoff, partial(lock, batch_rows=batch_rows))
            for live, rows in batch.rows.items():
                totals[live] += rows
            if report is not None and batch.locked:
                report(batch)
            if batch.locked < batch_rows:
                return totals


def read_backlog(connection: Connection, policy: ArchivePolicy, now: datetime) -> ArchiveBacklog:
    """Count what stands past the grace period."""
    due = due_condition(policy, ":cutoff")
    found = connection.execute(
        text(
            f"SELECT count(*) FILTER (WHERE due) AS rows, count(*) FILTER (WHERE NOT due) AS owed, "
            f"min({policy.key}) FILTER (WHERE due) AS oldest_key "
            f"FROM (SELECT live.{policy.key}, {due} AS due FROM {policy.live} AS live "
            f"WHERE live.{policy.finished_at} < :cutoff) AS past_grace"
        ),
        {"cutoff": now - policy.grace},
    ).one()
    return ArchiveBacklog(rows=found.rows, owed=found.owed, oldest_key=found.oldest_key)


def count_archived(connection: Connection, policy: ArchivePolicy) -> Mapping[str, int]:
    """Count the archived rows by partition; an empty partition is left out."""
    counted = text(
        f"SELECT tableoid::regclass::text AS month, count(*) AS rows FROM {policy.archive} "
        f"GROUP BY tableoid ORDER BY 1"
    )
    return {found.month: found.rows for found in connection.execute(counted)}


def read_columns(connection: Connection, policy: ArchivePolicy) -> Columns:
    """Read the columns that a live table and its archive share.

    Raises:
        ArchiveColumnsDiffer: one has a column that the other has not.
    """
    columns: dict[str, tuple[str, ...]] = {}
    for live, archive in policy.moves.items():
        found, wanted = _columns_of(connection, live), _columns_of(connection, archive)
        if set(found) != set(wanted):
            raise ArchiveColumnsDiffer(live, archive, sorted(set(found) ^ set(wanted)))
        columns[live] = found
    return columns


_COLUMNS = text("""
    SELECT quote_ident(attname) FROM pg_attribute
    WHERE attrelid = to_regclass(:table) AND attnum > 0 AND NOT attisdropped
    ORDER BY attnum
""")


def _columns_of(connection: Connection, table: str) -> tuple[str, ...]:
    return tuple(connection.scalars(_COLUMNS, {"table": table}))


@dataclass(frozen=True)
class _AllAtOnce:
    """Locks the rows of a batch by one statement."""

    policy: ArchivePolicy
    cutoff: datetime

    def __call__(self, connection: Connection, *, batch_rows: int) -> list[int]:
        lock = text(lock_batch(self.policy, cutoff=":cutoff", batch_rows=":batch_rows"))
        return list(connection.scalars(lock, {"cutoff": self.cutoff, "batch_rows": batch_rows}))


@dataclass(frozen=True)
class _EachByKey:
    """Locks each row of a batch by a statement of its own; `held` are those that others have locked."""

    policy: ArchivePolicy
    cutoff: datetime
    held: list[int] = field(default_factory=list)

    def __call__(self, connection: Connection, *, batch_rows: int) -> list[int]:
        locked: list[int] = []
        while chosen := self._choose(connection, locked, batch_rows - len(locked)):
            for key in chosen:
                (locked if self._lock(connection, key) else self.held).append(key)
        return locked

    def _choose(self, connection: Connection, locked: list[int], rows: int) -> list[int]:
        statement = select_batch(self.policy, cutoff=":cutoff", batch_rows=":rows", but=":but")
        values = {"cutoff": self.cutoff, "rows": rows, "but": [*locked, *self.held]}
        return list(connection.scalars(text(statement), values))

    def _lock(self, connection: Connection, key: int) -> bool:
        lock = text(lock_key(self.policy, cutoff=":cutoff", key=":key"))
        return connection.execute(lock, {"cutoff": self.cutoff, "key": key}).first() is not None


def _move_batch(
    connection: Connection,
    policy: ArchivePolicy,
    columns: Columns,
    cutoff: datetime,
    lock: Callable[[Connection], list[int]],
) -> ArchivedBatch:
    try:
        with connection.begin():
            locked = lock(connection)
            return ArchivedBatch(len(locked), _move_locked(connection, policy, columns, cutoff, locked))
    except DBAPIError as fault:
        raise ArchiveBatchFailed(policy.live, reason_of(fault)) from fault


def _move_locked(
    connection: Connection, policy: ArchivePolicy, columns: Columns, cutoff: datetime, locked: list[int]
) -> Mapping[str, int]:
    sql = move_finished(policy, columns, cutoff=":cutoff", keys=":keys")
    keys = _move_table(connection, policy, policy.live, sql, {"keys": locked, "cutoff": cutoff})
    moved = {policy.live: len(keys)}
    for live in policy.children:
        sql = move_child(policy, columns, live, keys=":keys")
        moved[live] = len(_move_table(connection, policy, live, sql, {"keys": keys}))
    return moved


def _move_table(
    connection: Connection, policy: ArchivePolicy, live: str, sql: str, values: Mapping[str, object]
) -> list[int]:
    found = connection.execute(text(sql), values).one()
    if found.deleted != found.inserted:
        raise ArchiveCountMismatch(live, policy.moves[live], deleted=found.deleted, inserted=found.inserted)
    return list(found.keys)
