"""Many rows over all shards: cut by shard, shards beside each other, a transaction for each chunk.

report = await bulk(sessions, MesOrderItem, rows, mode=Mode.INSERT_IGNORE)
"""

import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias, TypedDict

from sqlalchemy import Table

from sharding.errors import InvalidShardKey
from sharding.writes.chunks import Chunker
from sharding.writes.errors import RowRefused
from sharding.writes.rows import BulkReport, Mode, Row, read_row, target_of

OnFailure: TypeAlias = Literal["stop", "go-on"]
Rows: TypeAlias = Iterable[Any] | AsyncIterable[Any]
Read: TypeAlias = Callable[[int, Any], Row]


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
        progress: is told after each chunk; the report is the one that will be returned.
        unwritten: is given the shard and the rows of each chunk that is not known to be written.
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
    lanes = BulkWriter(sessions, target, settings)
    try:
        read = partial(read_row, target, mode)
        await _feed(lanes, sessions, rows, read=read, chunker=Chunker(chunk_rows, chunk_bytes))
    except BaseException:
        lanes.is_stopping = True  # what is being written is finished, and nothing else begun
        raise
    finally:
        await lanes.close()
    if lanes.is_stopping:
        raise BulkFailed(lanes.report) from lanes.failure
    return lanes.report


async def _feed(lanes: BulkWriter, sessions: Sessions, rows: Rows, *, read: Read, chunker: Chunker) -> None:
    number, began_with = 0, sessions.shard_map
    async for given in _stream(rows):
        if lanes.is_stopping:
            break
        number += 1
        try:
            row = read(number, given)
            sessions.shard_of(row.key)  # refuses what is no key
        except (RowRefused, InvalidShardKey) as refusal:
            _refuse(lanes, number, refusal)
            continue
        # By one map to the end, so that a key stays in its lane: by a newer one, its later rows would
        # overtake the earlier ones, which their shard refuses first.
        if full := chunker.add(began_with.shard_of(row.key), row):
            await lanes.put(full)
    for chunk in chunker.rest():
        await lanes.put(chunk)


def _refuse(lanes: BulkWriter, number: int, refusal: RowRefused | InvalidShardKey) -> None:
    error = refusal if isinstance(refusal, RowRefused) else RowRefused(number, str(refusal))
    lanes.report.refused += 1
    lanes.report.first_refusal = lanes.report.first_refusal or str(error)
    lanes.fail(error)


async def _stream(rows: Rows) -> AsyncIterator[Any]:
    if isinstance(rows, AsyncIterable):
        async for row in rows:
            yield row
    else:
        for row in rows:
            yield row
