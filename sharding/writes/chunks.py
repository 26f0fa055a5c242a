"""The chunks of a bulk write: rows of one shard that are written in one transaction, within a time limit.

They reach the table by COPY, or by one statement that is run for many rows.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import psycopg
from sqlalchemy import Executable, and_, bindparam, cast, exists, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from readreplica.cluster import Cluster
from readreplica.errors import CommitInDoubt, is_connection_lost
from readreplica.sessions import WriteSession
from readreplica.token import Committed
from sharding.keys import shard_key_of
from sharding.ownership import ASK_OWNERSHIP, REFUSED, read_refusal
from sharding.shard_call import connect, cut_after
from sharding.writes.errors import ChunkInDoubt
from sharding.writes.rows import Mode, Row, Target


@dataclass(frozen=True)
class Chunk:
    """Rows of one shard that are written in one transaction, in the order in which they came."""

    shard: str
    rows: Sequence[Row]

    @property
    def keys(self) -> tuple[int, int]:
        """The least and the greatest shard key."""
        keys = [row.key for row in self.rows]
        return min(keys), max(keys)


@dataclass
class Chunker:
    """Gathers rows by shard, and returns a chunk when one more row would make it too large.

    It holds at most one chunk for each shard, however long the input is.

    Parameters:
        max_rows: rows of a chunk at most.
        max_bytes: their size at most; a larger row is a chunk of its own.
    """

    max_rows: int
    max_bytes: int
    _open: dict[str, list[Row]] = field(default_factory=dict)
    _bytes: dict[str, int] = field(default_factory=dict)

    def add(self, shard: str, row: Row) -> Chunk | None:
        """Add a row; return the shard's chunk if it is full without it."""
        rows, held = self._open.get(shard, []), self._bytes.get(shard, 0)
        if rows and (len(rows) >= self.max_rows or held + row.size_bytes > self.max_bytes):
            self._open[shard], self._bytes[shard] = [row], row.size_bytes
            return Chunk(shard, rows)
        rows.append(row)
        self._open[shard], self._bytes[shard] = rows, held + row.size_bytes
        return None

    def rest(self) -> Iterator[Chunk]:
        """Yield what is left, after the last row."""
        for shard, rows in self._open.items():
            yield Chunk(shard, rows)
        self._open, self._bytes = {}, {}


def regroup(chunk: Chunk, shard_of: Callable[[int], str]) -> Iterable[Chunk]:
    """Cut a chunk by the shards that its rows belong to now."""
    parts: dict[str, list[Row]] = {}
    for row in chunk.rows:
        parts.setdefault(shard_of(row.key), []).append(row)
    return [Chunk(shard, rows) for shard, rows in parts.items()]


async def write_chunk(
    cluster: Cluster, target: Target, mode: Mode, chunk: Chunk, *, timeout_seconds: float
) -> Committed[int]:
    """Write a chunk, again from its start if a concurrent transaction ended it.

    Returns:
        How many rows were inserted or updated.

    Raises:
        ShardTimedOut: the shard did not answer in time; nothing is written.
        ChunkInDoubt: the connection was lost during COMMIT.
        RetriesExhausted: every attempt met a concurrent transaction; nothing is written.
        BucketNotOwned: the shard does not own a row's bucket; nothing is written.
        WritesRefused: the shard is being switched over to another primary; nothing is written.
        DBAPIError: the server refused the rows, or cannot be reached; nothing is written.
    """

    async def work(session: WriteSession) -> int:
        connection = await connect(session, shard=cluster.name, seconds=timeout_seconds)
        async with cut_after(connection, shard=cluster.name, seconds=timeout_seconds):
            rows = await write_rows(connection, target, mode, chunk.rows)
            await commit(session, shard=cluster.name)
        return rows

    return await cluster.unit_of_work(work, failover_wait_seconds=0).run()


async def commit(session: WriteSession, *, shard: str) -> None:
    """Commit, with an error of its own for a COMMIT that was not answered.

    Raises:
        ChunkInDoubt: the connection was lost before the server answered.
        DBAPIError: the server refused, and has rolled back.
    """
    try:
        await session.commit()
    except CommitInDoubt as error:
        raise ChunkInDoubt(shard) from error
    except (DBAPIError, psycopg.Error) as error:
        if is_connection_lost(error):
            raise ChunkInDoubt(shard) from error
        raise


async def write_rows(connection: AsyncConnection, target: Target, mode: Mode, rows: Sequence[Row]) -> int:
    """Write rows in the connection's transaction.

    Returns:
        how many rows were inserted or updated.

    Raises:
        BucketNotOwned: the shard does not own a row's bucket.
        DBAPIError: the server refused them.
    """
    written = 0
    # Rows with the same columns go together. Only new rows may be put in another order for that: of two rows
    # of one key, an update's last one must win, and an insert-or-ignore's first one.
    ordered = sorted(rows, key=lambda row: row.columns) if mode is Mode.INSERT else rows
    for columns, alike in groupby(ordered, key=lambda row: row.columns):
        values = [row.values for row in alike]
        if mode is Mode.INSERT:
            await _copy(connection, target, columns, values)
            written += len(values)
        else:
            statement, prefixes = _statement(target, mode, columns)
            parameters = [dict(zip(prefixes, row, strict=True)) for row in values]
            # SQLAlchemy forgets the row count of an INSERT unless it is asked to keep it.
            options = {"preserve_rowcount": True}
            result = await connection.execute(statement, parameters, execution_options=options)
            written += result.rowcount
    if written < len(rows) and shard_key_of(target.table) == target.key:
        # A row that is not there has perhaps moved away with its bucket, and the guard sees no such row.
        await connection.exec_driver_sql(ASK_OWNERSHIP, {"keys": [row.key for row in rows]})
    return written


async def _copy(
    connection: AsyncConnection, target: Target, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    """Insert by COPY, which is several times as fast as INSERT; triggers fire, and defaults hold."""
    quote = connection.dialect.identifier_preparer
    names = ", ".join(quote.quote(name) for name in columns)
    command = f"COPY {quote.format_table(target.table)} ({names}) FROM STDIN"
    driver = (await connection.get_raw_connection()).driver_connection
    assert isinstance(driver, psycopg.AsyncConnection)
    try:
        async with driver.cursor() as cursor, cursor.copy(command.encode()) as copy:
            for row in _bound(connection, target, columns, rows):
                await copy.write_row(row)
    except psycopg.Error as error:
        refusal = read_refusal(error.diag.message_detail) if error.sqlstate == REFUSED else None
        if refusal:
            raise refusal from error
        # As SQLAlchemy wraps what runs through it, so that callers see one kind of error.
        lost = driver.closed
        raise DBAPIError(command, None, error, connection_invalidated=lost) from error


def _bound(
    connection: AsyncConnection, target: Target, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> Iterator[Sequence[Any]]:
    """Yield values as the column types send them (an enum's text, JSON): COPY knows no types."""
    processors: list[Callable[[Any], Any] | None] = []
    for name in columns:
        kind = target.table.c[name].type.dialect_impl(connection.dialect)
        processors.append(kind.bind_processor(connection.dialect))
    for row in rows:
        yield [process(value) if process else value for process, value in zip(processors, row, strict=True)]


def _statement(target: Target, mode: Mode, columns: Sequence[str]) -> tuple[Executable, list[str]]:
    # A parameter must not be named as a column is: SQLAlchemy would take it for the column's own value.
    names = [f"given_{column}" for column in columns]
    make = _update if mode is Mode.UPDATE else _insert_ignore
    return make(target, dict(zip(columns, names, strict=True))), names


def _insert_ignore(target: Target, names: dict[str, str]) -> Executable:
    table = target.table
    given = {
        column: cast(bindparam(name, type_=table.c[column].type), table.c[column].type)
        for column, name in names.items()
    }
    rows = select(*given.values())
    if target.is_narrow:
        # The primary key has the partition key as well: an order that has moved on to another status would
        # not be found by ON CONFLICT, and stand there twice.
        rows = rows.where(~exists().where(and_(*(table.c[each] == given[each] for each in target.identity))))
    statement = insert(table).from_select(list(given), rows)
    return statement.on_conflict_do_nothing(index_elements=list(target.primary_key))


def _update(target: Target, names: dict[str, str]) -> Executable:
    table, keys = target.table, {target.key, *target.identity}
    found = and_(*(table.c[each] == bindparam(names[each], type_=table.c[each].type) for each in keys))
    values = {
        column: bindparam(name, type_=table.c[column].type)
        for column, name in names.items()
        if column not in keys
    }
    changes: dict[str, Any] = dict(values)
    if target.version and target.version not in changes:
        # A session that has read the row before must find that it has changed.
        changes[target.version] = table.c[target.version] + 1
    return update(table).where(found).values(changes)
