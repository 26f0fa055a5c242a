"""One lane for each shard: its chunks one after another, the lanes beside each other."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from readreplica.cluster import Cluster
from readreplica.errors import driver_error, is_connection_lost, one_line
from sharding.errors import BucketNotOwned, ShardTimedOut
from sharding.ownership import REFUSED
from sharding.shard_map import ShardMap
from sharding.writes.chunks import Chunk, regroup, write_chunk
from sharding.writes.errors import ChunkInDoubt
from sharding.writes.rows import BulkReport, Mode, Target

Outcome: TypeAlias = Literal["failed", "in_doubt", "not_tried"]
"""What rows are that were not written; the name of their count in the report."""

Refresh: TypeAlias = Callable[[int], Awaitable[object]]
"""Loads the shard map again; is given the version that the refusing shard knows, 0 if it did not tell."""


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


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a bulk write goes about it; `sharding.writes.bulk` says what each is."""

    mode: Mode
    concurrency: int
    chunk_timeout_seconds: float
    stop_at_first: bool
    refresh: Refresh | None
    progress: Callable[[BulkReport], None]
    unwritten: Callable[[str, Sequence[Mapping[str, Any]]], None]
    clock: Callable[[], float]


class Lanes:
    """Writes chunks, and accounts for every row of them."""

    def __init__(self, sessions: Sessions, target: Target, settings: Settings) -> None:
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
        """Hand a chunk over; waits while the lane is full, so that memory stays bounded."""
        if chunk.shard not in self._queues:
            queue = self._queues[chunk.shard] = asyncio.Queue(maxsize=1)
            self._tasks.append(asyncio.create_task(self._drive(queue), name=f"bulk {chunk.shard}"))
        self.report.of(chunk.shard).given += len(chunk.rows)
        await self._queues[chunk.shard].put(chunk)

    async def close(self) -> None:
        """Wait until every lane has done what it was given."""
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
            except Exception as error:  # of a callback: a lane that ended would leave the feed waiting
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
    """Tell whether a shard refused a row because it does not own its bucket."""
    found = driver_error(error)
    return isinstance(error, BucketNotOwned) or (found is not None and found.sqlstate == REFUSED)
