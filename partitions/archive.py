"""The archive job: finished rows leave the live tables for their monthly archive, batch by batch.

A batch is one transaction, so a job that is killed at any point has moved whole batches and nothing else;
the next run goes on with what is left. The job runs the SQL of a batch with parameters; a dry run prints it
with the variables of psql.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, Row, TextClause, text
from sqlalchemy.exc import DBAPIError

from partitions.archive_policy import ArchivePolicy, Child
from partitions.archive_sql import ArchiveColumns, ArchiveStatements
from partitions.errors import ArchiveBatchFailed, ArchiveColumnsDiffer, ArchiveCountMismatch, NoSuchColumn
from partitions.executor import reason_of
from partitions.policy_errors import RangeColumnTaken
from partitions.range_key import key_of_value
from partitions.sql import identifier, relation


@dataclass(frozen=True, slots=True)
class ArchivedBatch:
    """What one transaction moved: rows by live table, and the ids of the rows that left the first of them.

    `locked` is how many it had found.
    """

    locked: int
    rows: Mapping[str, int]
    ids: Sequence[Sequence[Any]] = ()


@dataclass(frozen=True, slots=True)
class ArchiveBacklog:
    """What stands past the grace period.

    `rows` can be moved, `owed` are held back by work that is still owed; `oldest_key` is the smallest range
    key of the former, None when there are none.
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
    totals = dict.fromkeys(policy.moves, 0)
    with engine.connect() as connection:
        sql = ArchiveStatements(policy, read_columns(connection, policy), ":cutoff")
        connection.rollback()
        batch_of = _Batches(sql, now - policy.grace)
        lock: _Lock = _EachByKey(sql, batch_of.cutoff) if lock_by_key else _AllAtOnce(sql, batch_of.cutoff)
        while True:
            batch = batch_of.move(connection, partial(lock, batch_rows=batch_rows))
            for live, rows in batch.rows.items():
                totals[live] += rows
            if report is not None and batch.locked:
                report(batch)
            if batch.locked < batch_rows:
                return totals


def script(
    policy: ArchivePolicy,
    columns: ArchiveColumns,
    *,
    cutoff: str,
    batch_rows: int,
    lock_by_key: bool = False,
) -> str:
    """Return one batch as a script for psql.

    Parameters:
        policy: what is archived.
        columns: what its tables have.
        cutoff: an SQL literal.
        batch_rows: how many rows of the live table at most.
        lock_by_key: lock each row by a statement of its own.
    """
    return ArchiveStatements(policy, columns, cutoff).script(batch_rows=batch_rows, lock_by_key=lock_by_key)


def read_backlog(connection: Connection, policy: ArchivePolicy, now: datetime) -> ArchiveBacklog:
    """Count what stands past the grace period."""
    sql = ArchiveStatements(policy, ArchiveColumns(_types_of(connection, policy.live)), ":cutoff")
    key = "NULL" if policy.range_key is None else f"live.{identifier(policy.range_key)}"
    query = (
        f"SELECT count(*) FILTER (WHERE due) AS rows, count(*) FILTER (WHERE NOT due) AS owed, "
        f"min(range_key) FILTER (WHERE due) AS oldest_key "
        f"FROM (SELECT {key} AS range_key, {sql.due()} AS due FROM {relation(policy.live)} AS live "
        f"WHERE {sql.past_grace()}) AS past_grace"
    )
    found = connection.execute(_bound(query), {"cutoff": now - policy.grace}).one()
    oldest = None if found.oldest_key is None else key_of_value(found.oldest_key)[1]
    return ArchiveBacklog(rows=found.rows, owed=found.owed, oldest_key=oldest)


def count_archived(connection: Connection, policy: ArchivePolicy) -> Mapping[str, int]:
    """Count the archived rows by partition; an empty partition is left out."""
    counted = (
        f"SELECT tableoid::regclass::text AS month, count(*) AS rows FROM {relation(policy.archive)} "
        f"GROUP BY tableoid ORDER BY 1"
    )
    rows = connection.exec_driver_sql(counted, execution_options={"no_parameters": True})
    return {found.month: found.rows for found in rows}


def read_columns(connection: Connection, policy: ArchivePolicy) -> ArchiveColumns:
    """Read the columns that a live table and its archive share.

    Raises:
        ArchiveColumnsDiffer: one has a column that the other has not.
        NoSuchColumn: a table lacks a column that the policy names.
        RangeColumnTaken: a child has a column of its own where the parent's range key would go.
    """
    types = _types_of(connection, policy.live)
    shared = {policy.live: tuple(types)}
    _require_alike(policy.live, policy.archive, types, _types_of(connection, policy.archive))
    _require(policy.live, types, (*policy.row_id, policy.finished_at, policy.range_key))
    filled: dict[str, str] = {}
    for child in policy.children:
        found, wanted = _types_of(connection, child.table), _types_of(connection, child.archive)
        _require(child.table, found, child.key)
        if (extra := policy.filled(child)) is not None:
            _require(child.archive, wanted, (extra,))
            if extra in found:
                raise RangeColumnTaken(child.table, child.archive, extra)
            filled[child.table] = extra
            wanted = {name: kind for name, kind in wanted.items() if name != extra}
        _require_alike(child.table, child.archive, found, wanted)
        shared[child.table] = tuple(found)
    return ArchiveColumns(types, shared, filled)


def _require(table: str, found: Mapping[str, str], names: Sequence[str | None]) -> None:
    for name in names:
        if name is not None and name not in found:
            raise NoSuchColumn(table, name)


def _require_alike(live: str, archive: str, found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    if found.keys() != wanted.keys():
        raise ArchiveColumnsDiffer(live, archive, sorted(found.keys() ^ wanted.keys()))


_TYPES = text("""
    SELECT attname, format_type(atttypid, atttypmod) AS type FROM pg_attribute
    WHERE attrelid = to_regclass(:table) AND attnum > 0 AND NOT attisdropped
    ORDER BY attnum
""")


def _types_of(connection: Connection, table: str) -> dict[str, str]:
    return {row.attname: row.type for row in connection.execute(_TYPES, {"table": relation(table)})}


_PARAMETERS = re.compile(r"(?<!:):(?=cutoff\b|batch_rows\b|(?:but|key|keys)_\d)")


def _bound(sql: str) -> TextClause:
    """Make a statement with its parameters; another colon, in a name for example, stays one."""
    return text(_PARAMETERS.sub("\0", sql).replace(":", "\\:").replace("\0", ":"))


class _Lock(Protocol):
    def __call__(self, connection: Connection, *, batch_rows: int) -> Sequence[Row[Any]]:
        """Lock rows that are due, and return their ids."""
        ...


@dataclass(frozen=True)
class _AllAtOnce:
    """Locks the rows of a batch by one statement."""

    sql: ArchiveStatements
    cutoff: datetime

    def __call__(self, connection: Connection, *, batch_rows: int) -> Sequence[Row[Any]]:
        lock = _bound(self.sql.lock_batch(batch_rows=":batch_rows"))
        return connection.execute(lock, {"cutoff": self.cutoff, "batch_rows": batch_rows}).all()


@dataclass(frozen=True)
class _EachByKey:
    """Locks each row of a batch by a statement of its own; `held` are those that others have locked."""

    sql: ArchiveStatements
    cutoff: datetime
    held: list[Row[Any]] = field(default_factory=list)

    def __call__(self, connection: Connection, *, batch_rows: int) -> Sequence[Row[Any]]:
        locked: list[Row[Any]] = []
        while chosen := self._choose(connection, locked, batch_rows - len(locked)):
            for row in chosen:
                (locked if self._lock(connection, row) else self.held).append(row)
        return locked

    def _choose(self, connection: Connection, locked: list[Row[Any]], rows: int) -> Sequence[Row[Any]]:
        width = len(self.sql.policy.row_id)
        but = [f":but_{number}" for number in range(1, width + 1)]
        statement = _bound(self.sql.select_batch(batch_rows=":batch_rows", but=but))
        values = _arrays("but", [*locked, *self.held], width)
        return connection.execute(statement, {"cutoff": self.cutoff, "batch_rows": rows, **values}).all()

    def _lock(self, connection: Connection, row: Row[Any]) -> bool:
        names = [f"key_{number}" for number, _ in enumerate(row, start=1)]
        lock = _bound(self.sql.lock_row([f":{name}" for name in names]))
        values = dict(zip(names, row, strict=True))
        return connection.execute(lock, {"cutoff": self.cutoff, **values}).first() is not None


def _arrays(prefix: str, rows: Sequence[Sequence[Any]], width: int) -> dict[str, list[Any]]:
    """Turn ids into a parameter for each of their columns."""
    return {f"{prefix}_{number + 1}": [row[number] for row in rows] for number in range(width)}


@dataclass(frozen=True)
class _Batches:
    """Moves batch by batch, each in a transaction."""

    sql: ArchiveStatements
    cutoff: datetime

    def move(self, connection: Connection, lock: Callable[[Connection], Sequence[Row[Any]]]) -> ArchivedBatch:
        try:
            with connection.begin():
                locked = lock(connection)
                return self._move_locked(connection, locked)
        except DBAPIError as fault:
            raise ArchiveBatchFailed(self.sql.policy.live, reason_of(fault)) from fault

    def _move_locked(self, connection: Connection, locked: Sequence[Row[Any]]) -> ArchivedBatch:
        policy, ids = self.sql.policy, self.sql.arrays(":keys_")
        chosen = _arrays("keys", locked, len(policy.row_id))
        values = {**chosen, "cutoff": self.cutoff}
        moved = self._move(connection, policy.live, self.sql.move_finished(ids), values)
        keys = {name.removeprefix(":"): getattr(moved, name.removeprefix(":")) for name in ids}
        counts = {policy.live: moved.inserted}
        for child in policy.children:
            counts[child.table] = self._move_child(connection, child, ids, keys)
        moved_ids = list(
            zip(*(keys[f"keys_{number + 1}"] or () for number in range(len(policy.row_id))), strict=True)
        )
        return ArchivedBatch(len(locked), counts, moved_ids)

    def _move_child(
        self, connection: Connection, child: Child, ids: Sequence[str], keys: Mapping[str, object]
    ) -> int:
        sql = self.sql.move_child(child, ids)
        used = {name: value for name, value in keys.items() if f":{name} " in sql}
        return int(self._move(connection, child.table, sql, used).inserted)

    def _move(self, connection: Connection, live: str, sql: str, values: Mapping[str, object]) -> Row[Any]:
        found = connection.execute(_bound(sql), values).one()
        if found.deleted != found.inserted:
            archive = self.sql.policy.moves[live]
            raise ArchiveCountMismatch(live, archive, deleted=found.deleted, inserted=found.inserted)
        return found
