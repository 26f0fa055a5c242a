"""The archive job: finished rows leave the live tables for their monthly archive, batch by batch.

A batch is one transaction, so a job that is killed at any point has moved whole batches and nothing else;
the next run goes on with what is left.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from partitions.archive import statements
from partitions.archive.policy import ArchivePolicy
from partitions.archive.statements import Columns
from partitions.errors import ArchiveBatchFailed, ArchiveColumnsDiffer, ArchiveCountMismatch
from partitions.execute import reason_of


@dataclass(frozen=True, slots=True)
class Batch:
    """What one transaction moved: rows by live table. `locked` is how many it had found."""

    locked: int
    rows: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Waiting:
    """What stands past the grace period.

    `rows` can be moved, `owed` are held back by work that is still owed; `oldest_key` is the smallest key of
    the former, None when there are none.
    """

    rows: int
    owed: int
    oldest_key: int | None


Report = Callable[[Batch], None]


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


def read_waiting(connection: Connection, policy: ArchivePolicy, now: datetime) -> Waiting:
    """Count what stands past the grace period."""
    due = statements.due(policy, ":cutoff")
    found = connection.execute(
        text(
            f"SELECT count(*) FILTER (WHERE due) AS rows, count(*) FILTER (WHERE NOT due) AS owed, "
            f"min({policy.key}) FILTER (WHERE due) AS oldest_key "
            f"FROM (SELECT live.{policy.key}, {due} AS due FROM {policy.live} AS live "
            f"WHERE live.{policy.finished_at} < :cutoff) AS past_grace"
        ),
        {"cutoff": now - policy.grace},
    ).one()
    return Waiting(rows=found.rows, owed=found.owed, oldest_key=found.oldest_key)


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
        lock = text(statements.lock_batch(self.policy, cutoff=":cutoff", batch_rows=":batch_rows"))
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
        statement = statements.choose(self.policy, cutoff=":cutoff", batch_rows=":rows", but=":but")
        values = {"cutoff": self.cutoff, "rows": rows, "but": [*locked, *self.held]}
        return list(connection.scalars(text(statement), values))

    def _lock(self, connection: Connection, key: int) -> bool:
        lock = text(statements.lock_key(self.policy, cutoff=":cutoff", key=":key"))
        return connection.execute(lock, {"cutoff": self.cutoff, "key": key}).first() is not None


def _move_batch(
    connection: Connection,
    policy: ArchivePolicy,
    columns: Columns,
    cutoff: datetime,
    lock: Callable[[Connection], list[int]],
) -> Batch:
    try:
        with connection.begin():
            locked = lock(connection)
            return Batch(len(locked), _move_locked(connection, policy, columns, cutoff, locked))
    except DBAPIError as fault:
        raise ArchiveBatchFailed(policy.live, reason_of(fault)) from fault


def _move_locked(
    connection: Connection, policy: ArchivePolicy, columns: Columns, cutoff: datetime, locked: list[int]
) -> Mapping[str, int]:
    sql = statements.move_finished(policy, columns, cutoff=":cutoff", keys=":keys")
    keys = _move_table(connection, policy, policy.live, sql, {"keys": locked, "cutoff": cutoff})
    moved = {policy.live: len(keys)}
    for live in policy.children:
        sql = statements.move_child(policy, columns, live, keys=":keys")
        moved[live] = len(_move_table(connection, policy, live, sql, {"keys": keys}))
    return moved


def _move_table(
    connection: Connection, policy: ArchivePolicy, live: str, sql: str, values: Mapping[str, object]
) -> list[int]:
    found = connection.execute(text(sql), values).one()
    if found.deleted != found.inserted:
        raise ArchiveCountMismatch(live, policy.moves[live], deleted=found.deleted, inserted=found.inserted)
    return list(found.keys)
