"""Many rows over all shards: cut by shard, shards beside each other, a transaction for each chunk.

report = await bulk(sessions, MesOrderItem, rows, mode=Mode.INSERT_IGNORE)
"""

import asyncio
import time
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, TypeAlias, TypedDict

from sqlalchemy import Table

from readreplica.cluster import Cluster
from readreplica.errors import driver_error, is_connection_lost, one_line
from sharding.errors import BucketNotOwned, InvalidShardKey, ShardTimedOut
from sharding.ownership import REFUSED
from sharding.shard_map import ShardMap
from sharding.writes.chunks import Chunk, Chunker, regroup, write_chunk
from sharding.writes.errors import ChunkInDoubt, RowRefused, WritesError
from sharding.writes.rows import BulkReport, Mode, Row, Target, read_row, target_of

OnFailure: TypeAlias = Literal["stop", "go-on"]
Rows: TypeAlias = Iterable[Any] | AsyncIterable[Any]
Read: TypeAlias = Callable[[int, Any], Row]

Outcome: TypeAlias = Literal["failed", "in_doubt", "not_tried"]
"""What rows are that were not written; the name of their count in the report."""

Refresh: TypeAlias = Callable[[int], Awaitable[object]]
"""Loads the shard map again; called with the map version of the shard that refused, 0 if it is unknown."""


class BulkFailed(WritesError):
    """A bulk write stopped at its first failure; `report` has what was written, the failure is chained."""

    def __init__(self, report: BulkReport) -> None:
        self.report = report
        super().__init__(
            f"the bulk write stopped: {report.summary()}; what is written stays, "
            "so go on with mode `insert-ignore`, or with `update`"
        )


class Sessions(Protocol):
    """What of `ShardedSessions` is needed here."""

    @property
    def clusters(self) -> Mapping[str, Cluster]:
        """The shards, by name."""

    @property
    def shard_map(self) -> ShardMap:
        """The map that is routed by now."""

    def shard_of(self, key: int) -> str:
        """Name the shard of a key."""


class BulkOptions(TypedDict, total=False):
    """What may be said to `bulk` beside what is written where; it says what each is."""

    mode: Mode
    key: str | None
    chunk_rows: int
    chunk_bytes: int
    concurrency: int
    chunk_timeout_seconds: float
    on_failure: OnFailure
    progress: Callable[[BulkReport], None]
    unwritten: Callable[[str, Sequence[Mapping[str, Any]]], None]


async def bulk(
    sessions: Sessions,
    entity: type[Any] | Table,
    rows: Rows,
    *,
    mode: Mode = Mode.INSERT,
    key: str | None = None,
    chunk_rows: int = 1000,
    chunk_bytes: int = 4 << 20,
    concurrency: int = 8,
    chunk_timeout_seconds: float = 60.0,
    on_failure: OnFailure = "stop",
    refresh: Refresh | None = None,
    progress: Callable[[BulkReport], None] = lambda _report: None,
    unwritten: Callable[[str, Sequence[Mapping[str, Any]]], None] = lambda _shard, _rows: None,
    clock: Callable[[], float] = time.monotonic,
) -> BulkReport:
    """Insert or update rows on the shards of their keys.

    The input is read as it is written: at most three chunks of each shard are in memory. A chunk is one
    transaction, so it is written whole or not at all; the write as a whole is not atomic. Repeated with
    `INSERT_IGNORE` or `UPDATE`, it writes what is missing. Rows of one key are written in their order, also
    when its bucket moves meanwhile.
    Defaults of the server hold; Python-side defaults do not.

    A shard that times out, or cannot be reached twice, is out: its other rows are accounted for as
    `not_tried`, and the other shards go on, if `on_failure` is `go-on`.

    Parameters:
        sessions: the shards.
        entity: a mapped class or a table, placed by one int8 column.
        rows: mappings or mapped objects; a list, a generator, or an asynchronous one.
        mode: insert, insert what is not there, or update by key.
        key: the column that places a row, of a table that does not declare it (`sharding.keys.shard_key`).
        chunk_rows: rows of a transaction at most.
        chunk_bytes: about how large these may be together.
        concurrency: shards written at the same time.
        chunk_timeout_seconds: how long a chunk may take before its connection is cut.
        on_failure: `stop` at the first failure and raise, or `go-on` and report.
        refresh: loads the shard map again, until it is of this version or newer. Called when a shard refuses
            a row of a bucket that it does not own (SQLSTATE MS001); the chunk is then cut anew and tried once
            more. `ShardedSessions.bulk` has it.
        progress: called after each chunk with the report that will be returned.
        unwritten: called with the shard and the rows of each chunk that is not known to be written.
        clock: a monotonic clock, in seconds.

    Returns:
        what became of the rows, by shard.

    Raises:
        TargetRefused: the entity is no table, declares no shard key or another one than `key`, or is a
            reference table.
        BulkFailed: something failed, and `on_failure` is `stop`; it has the report.
    """
    target = target_of(entity, key=key)
    settings = BulkSettings(
        mode=mode,
        concurrency=concurrency,
        chunk_timeout_seconds=chunk_timeout_seconds,
        stop_at_first=on_failure == "stop",
        refresh=refresh,
        progress=progress,
        unwritten=unwritten,
        clock=clock,
    )
    writer = BulkWriter(sessions, target, settings)
    try:
        read = partial(read_row, target, mode)
        await _feed(writer, sessions, rows, read=read, chunker=Chunker(chunk_rows, chunk_bytes))
    except BaseException:
        writer.is_stopping = True  # what is being written is finished, and nothing else begun
        raise
    finally:
        await writer.close()
    if writer.is_stopping:
        raise BulkFailed(writer.report) from writer.failure
    return writer.report


async def _feed(
    writer: "BulkWriter", sessions: Sessions, rows: Rows, *, read: Read, chunker: Chunker
) -> None:
    number, began_with = 0, sessions.shard_map
    async for given in _stream(rows):
        if writer.is_stopping:
            break
        number += 1
        try:
            row = read(number, given)
            sessions.shard_of(row.key)  # refuses what is no key
        except (RowRefused, InvalidShardKey) as refusal:
            _refuse(writer, number, refusal)
            continue
        # By one map to the end, so that a key stays in its queue: by a newer one, its later rows would
        # overtake the earlier ones, which their shard refuses first.
        if full := chunker.add(began_with.shard_of(row.key), row):
            await writer.put(full)
    for chunk in chunker.rest():
        await writer.put(chunk)


def _refuse(writer: "BulkWriter", number: int, refusal: RowRefused | InvalidShardKey) -> None:
    error = refusal if isinstance(refusal, RowRefused) else RowRefused(number, str(refusal))
    writer.report.refused += 1
    writer.report.first_refusal = writer.report.first_refusal or str(error)
    writer.fail(error)


async def _stream(rows: Rows) -> AsyncIterator[Any]:
    if isinstance(rows, AsyncIterable):
        async for row in rows:
            yield row
    else:
        for row in rows:
            yield row


@dataclass(frozen=True, kw_only=True)
class BulkSettings:
    """How a bulk write goes about it; `sharding.writes.bulk` says what each is."""

    mode: Mode
    concurrency: int
    chunk_timeout_seconds: float
    stop_at_first: bool
    refresh: Refresh | None
    progress: Callable[[BulkReport], None]
    unwritten: Callable[[str, Sequence[Mapping[str, Any]]], None]
    clock: Callable[[], float]


class BulkWriter:
    """Writes chunks, and accounts for every row of them."""

    def __init__(self, sessions: Sessions, target: Target, settings: BulkSettings) -> None:
        self.report = BulkReport()
        self.failure: Exception | None = None
        self.is_stopping = False
        self._sessions = sessions
        self._target = target
        self._settings = settings
        self._slots = asyncio.Semaphore(settings.concurrency)
        # One chunk waits while one is written: with the one that is being filled, three for each shard.
        self._queues: dict[str, asyncio.Queue[Chunk | None]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def put(self, chunk: Chunk) -> None:
        """Queue a chunk; waits while the shard's queue is full, so that memory stays bounded."""
        if chunk.shard not in self._queues:
            queue = self._queues[chunk.shard] = asyncio.Queue(maxsize=1)
            self._tasks.append(asyncio.create_task(self._drive(queue), name=f"bulk {chunk.shard}"))
        self.report.of(chunk.shard).given += len(chunk.rows)
        await self._queues[chunk.shard].put(chunk)

    async def close(self) -> None:
        """Wait until every queued chunk is done."""
        for queue in self._queues.values():
            await queue.put(None)
        await asyncio.gather(*self._tasks)

    def fail(self, error: Exception) -> None:
        """Note a failure; the first one stops everything, if it was so agreed."""
        self.failure = self.failure or error
        self.is_stopping = self.is_stopping or self._settings.stop_at_first

    async def _drive(self, queue: "asyncio.Queue[Chunk | None]") -> None:
        while chunk := await queue.get():
            try:
                await self._account(chunk)
            except (
                Exception
            ) as error:  # of a callback: without a reader of the queue `put` would wait for ever
                self.failure, self.is_stopping = self.failure or error, True

    async def _account(self, chunk: Chunk) -> None:
        report = self.report.of(chunk.shard)
        if self.is_stopping or report.is_out:
            self._leave(chunk, "not_tried")
            return
        async with self._slots:
            started = self._settings.clock()
            await self._write(chunk, again=True)
            report.seconds += self._settings.clock() - started
        self._settings.progress(self.report)

    async def _write(self, chunk: Chunk, *, again: bool, otherwise: Outcome = "failed") -> None:
        """Write a chunk.

        Parameters:
            chunk: the rows.
            again: whether it may be tried a second time.
            otherwise: what its rows are if this attempt does not write them.
        """
        mode = self._settings.mode
        try:
            written = await write_chunk(
                self._sessions.clusters[chunk.shard],
                self._target,
                mode,
                chunk,
                timeout_seconds=self._settings.chunk_timeout_seconds,
            )
        except ShardTimedOut as error:
            self._give_up(chunk, otherwise, error)
        except ChunkInDoubt as error:
            if again and mode is not Mode.INSERT:  # the others may be repeated, whatever became of the first
                await self._write(chunk, again=False, otherwise="in_doubt")
            else:
                self._leave(chunk, "in_doubt", error)
        except Exception as error:  # a server's refusal, or a value of the wrong type: the chunk's outcome
            await self._refused(chunk, error, again=again, otherwise=otherwise)
        else:
            report = self.report.of(chunk.shard)
            report.chunks += 1
            report.written += written.value
            report.skipped += len(chunk.rows) - written.value
            report.token = report.token.merge(written.token)

    async def _refused(self, chunk: Chunk, error: Exception, *, again: bool, otherwise: Outcome) -> None:
        if again and is_refusal(error):
            await self._reroute(chunk, version=getattr(error, "map_version", 0))
        elif not is_connection_lost(error):
            self._leave(chunk, otherwise, error)
        elif again:  # a server that was restarted closes its connections, and is there again
            await self._write(chunk, again=False)
        else:
            self._give_up(chunk, otherwise, error)

    async def _reroute(self, chunk: Chunk, *, version: int) -> None:
        """Load the map again, and write the rows on the shards that own them now, once."""
        try:
            if self._settings.refresh:
                await self._settings.refresh(version)
            parts = regroup(chunk, self._sessions.shard_of)
        except Exception as error:  # the directory is down: the chunk stays unwritten
            self._leave(chunk, "failed", error)
            return
        for part in parts:
            if part.shard != chunk.shard:
                self.report.of(chunk.shard).given -= len(part.rows)
                self.report.of(part.shard).given += len(part.rows)
                self.report.of(part.shard).rerouted += len(part.rows)
            await self._write(part, again=False)

    def _give_up(self, chunk: Chunk, outcome: Outcome, error: Exception) -> None:
        self.report.of(chunk.shard).is_out = True
        self._leave(chunk, outcome, error)

    def _leave(self, chunk: Chunk, outcome: Outcome, error: Exception | None = None) -> None:
        report = self.report.of(chunk.shard)
        setattr(report, outcome, getattr(report, outcome) + len(chunk.rows))
        report.widen(chunk.keys)
        if error is not None:
            report.first_error = report.first_error or one_line(error)
            self.fail(error)
        rows = [dict(zip(row.columns, row.values, strict=True)) for row in chunk.rows]
        self._settings.unwritten(chunk.shard, rows)


def is_refusal(error: Exception) -> bool:
    """Return whether a shard refused a row because it does not own its bucket."""
    found = driver_error(error)
    return isinstance(error, BucketNotOwned) or (found is not None and found.sqlstate == REFUSED)
