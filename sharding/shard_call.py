"""A call to a shard within a time limit that holds even when the server is frozen.

A cancel request needs the server, and a frozen server does not answer one: psycopg then waits ten seconds
more. So the socket is shut: the driver sees the connection end at once, and the server rolls back when it
runs again and finds the connection closed.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
from sqlalchemy.exc import DataError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolExhausted
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import Session

from readreplica.cluster import Cluster
from readreplica.freshness import Freshness
from readreplica.pool import shut
from readreplica.sessions import ReadSession, WriteSession
from readreplica.token import CausalToken
from sharding.errors import ShardFailed, ShardTimedOut, ValueUnreadable

_GRACE_SECONDS = 0.5
_leftovers: set[asyncio.Task[Any]] = set()


@asynccontextmanager
async def cut_after(connection: AsyncConnection, *, shard: str, seconds: float) -> AsyncIterator[None]:
    """Shut a connection that is still busy after so many seconds.

    Raises:
        ShardTimedOut: it was shut; the driver's error is chained.
    """
    driver = (await connection.get_raw_connection()).driver_connection
    assert isinstance(driver, psycopg.AsyncConnection)
    is_cut = False

    def cut() -> None:
        nonlocal is_cut
        is_cut = True
        shut(driver)

    timer = asyncio.get_running_loop().call_later(seconds, cut)
    try:
        yield
    except (DBAPIError, psycopg.Error) as error:
        if driver.closed and not connection.invalidated:
            await connection.invalidate()  # or the session would try to roll back on it
        if is_cut:
            raise ShardTimedOut(shard, timeout_seconds=seconds) from error
        raise
    finally:
        timer.cancel()


async def connect(session: WriteSession, *, shard: str, seconds: float) -> AsyncConnection:
    """Return the session's connection; the pool may wait so many seconds for it.

    Raises:
        ShardTimedOut: there was none in time.
    """
    try:
        async with asyncio.timeout(seconds):
            return await session.connection()
    except TimeoutError as error:
        raise ShardTimedOut(shard, timeout_seconds=seconds) from error


class ShardReader:
    """A shard that is being read: one session, so one snapshot, for all that the call asks of it."""

    def __init__(
        self,
        shard: str,
        cluster: Cluster,
        *,
        after: CausalToken | None,
        freshness: Freshness,
        slots: asyncio.Semaphore,
        timeout_seconds: float,
    ) -> None:
        """Prepare to read a shard; nothing connects yet.

        Parameters:
            shard: its name.
            cluster: its servers.
            after: what the read must have seen.
            freshness: the policy of the read.
            slots: how many shards may be read at the same time.
            timeout_seconds: how long the shard may take for everything that it is asked.
        """
        self.shard = shard
        self.cluster = cluster
        self.fetched_rows = 0
        self._after = after
        self._freshness = freshness
        self._slots = slots
        self._timeout_seconds = timeout_seconds
        self._left_seconds = timeout_seconds
        self._session: ReadSession | None = None
        self._driver: Any = None
        self._is_broken = False

    async def ask(self, statement: Any) -> Sequence[Any]:
        """Run a SELECT on the shard and return all of its rows.

        Raises:
            ShardFailed: it failed; the cause is chained.
            ShardTimedOut: it did not answer in time.
            ValueUnreadable: it answered with a value that Python has not; it may be asked for others.
        """
        async with self._slots:
            try:
                rows: Sequence[Any] = await self._watched(self._run(statement))
            except ShardFailed:
                raise
            except Exception as error:
                failed = ValueUnreadable if _is_unreadable(error) else ShardFailed
                raise failed(self.shard, error) from error
        return rows

    async def fetch(self, statement: Any) -> Sequence[Any]:
        """Run a SELECT as `ask` does, and count its rows."""
        rows = await self.ask(statement)
        self.fetched_rows += len(rows)
        return rows

    async def close(self) -> None:
        """Return the connection to the pool, or drop it if it may still be busy."""
        session, self._session = self._session, None
        if session is None:
            return
        if self._is_broken:
            await session.invalidate()
            return
        with suppress(ShardTimedOut, DBAPIError):
            await self._watched(session.close())

    async def _run(self, statement: Any) -> Sequence[Any]:
        if self._session is None:
            session = self.cluster.read(after=self._after, freshness=self._freshness)
            # Nothing of the session needs closing before its first statement.
            await session.__aenter__()
            self._session = session
        return await self._session.run_sync(self._execute, statement)

    def _execute(self, session: Session, statement: Any) -> Sequence[Any]:
        self._driver = session.connection().connection.driver_connection
        return session.execute(statement).all()

    async def _watched(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Await some work for the time that the shard has left; then, or when cancelled, end it."""
        loop = asyncio.get_running_loop()
        task, begun = asyncio.ensure_future(work), loop.time()
        try:
            await asyncio.wait([task], timeout=max(self._left_seconds, 0))
        except asyncio.CancelledError:
            await self._stop(task)
            raise
        self._left_seconds -= loop.time() - begun
        if not task.done():
            await self._stop(task)
            raise ShardTimedOut(self.shard, timeout_seconds=self._timeout_seconds)
        return task.result()

    async def _stop(self, task: asyncio.Task[Any]) -> None:
        """Stop the work, even if this is cancelled meanwhile: it takes two seconds at most.

        When a shard times out, the reads of the others are cancelled while they are being stopped themselves.
        """
        stopping, is_cancelled = asyncio.ensure_future(self._end(task)), False
        while not stopping.done():
            try:
                await asyncio.shield(stopping)
            except asyncio.CancelledError:
                is_cancelled = True
        if is_cancelled:
            raise asyncio.CancelledError

    async def _end(self, task: asyncio.Task[Any]) -> None:
        """End the shard's query, and the wait for it.

        The task itself is not cancelled first: psycopg would then wait up to ten seconds for a server that
        may be frozen. So the server gets a cancel request, then the socket is shut, and the task fails.
        """
        self._is_broken = True
        if self._driver is not None:
            with suppress(Exception):
                await self._driver.cancel_safe(timeout=_GRACE_SECONDS)
            await asyncio.wait([task], timeout=_GRACE_SECONDS)
            shut(self._driver)
        else:
            task.cancel()
        await asyncio.wait([task], timeout=_GRACE_SECONDS)
        if task.done():
            # Its error is of the shut socket.
            task.cancelled() or task.exception()
            return
        task.cancel()
        _leftovers.add(task)
        task.add_done_callback(_forget)


def _forget(task: asyncio.Task[Any]) -> None:
    _leftovers.discard(task)
    if not task.cancelled():
        task.exception()


def _is_unreadable(error: Exception) -> bool:
    """Return whether the driver could not read a value, as opposed to one that the server refused."""
    return isinstance(error, DataError) and getattr(error.orig, "sqlstate", None) is None


def is_down(error: ShardFailed) -> bool:
    """Return whether a shard cannot be reached, as opposed to one that refuses the statement."""
    cause = error.__cause__
    if isinstance(cause, DBAPIError) and cause.connection_invalidated:
        return True
    return isinstance(error, ShardTimedOut) or isinstance(
        cause, (OperationalError, InterfaceError, PoolExhausted, OSError)
    )


async def all_of(works: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Run several functions at once; the first failure ends the others and is raised as it is."""
    if len(works) == 1:
        await works[0]()
        return
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(_coroutine(work))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures.exceptions[0].__cause__


async def _coroutine(work: Callable[[], Awaitable[None]]) -> None:
    await work()
