"""What differs between asyncio and threads: the side of asyncio.

`readreplica.sync.concurrency` has the same names for threads, written by hand.
"""

import asyncio
import socket
from asyncio import Event
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from threading import Lock
from typing import Any

from sqlalchemy import URL
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from readreplica.errors import MissingExtra
from readreplica.pool import shut

__all__ = [
    "BackgroundLoop",
    "Event",
    "Lock",
    "deadline",
    "make_engine",
    "pool_wait",
    "resolve_name",
    "resolve_services",
    "run_all",
    "running_loop",
    "sleep",
    "wait_for",
]

sleep = asyncio.sleep


def running_loop() -> object:
    """Return the running event loop, which everything that waits here belongs to."""
    return asyncio.get_running_loop()


async def wait_for(event: Event, *, timeout_seconds: float) -> bool:
    """Wait until the event is set; False when that did not happen in time."""
    if event.is_set():
        return True
    try:
        async with asyncio.timeout(timeout_seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def make_engine(
    url: URL, connect: Callable[..., Any], *, connect_args: Mapping[str, Any], **pool: Any
) -> AsyncEngine:
    """Return an engine whose connections `connect` opens.

    Parameters:
        url: the database.
        connect: opens a driver's connection.
        connect_args: passed to it, with what the URL says.
        pool: options of SQLAlchemy's pool.
    """
    arguments = {**connect_args, "async_creator_fn": connect}
    # An error repeats the parameters in its text, which stands in logs and traces.
    return create_async_engine(url, connect_args=arguments, hide_parameters=True, **pool)


@asynccontextmanager
async def deadline(connection: Any, *, timeout_seconds: float) -> AsyncIterator[None]:
    """Shut the connection if the block takes longer; what waits in it fails with OperationalError."""
    timer = asyncio.get_running_loop().call_later(timeout_seconds, shut, connection)
    try:
        yield
    finally:
        timer.cancel()


@asynccontextmanager
async def pool_wait(*, timeout_seconds: float) -> AsyncIterator[None]:
    """Wait no longer than this for a connection of a pool.

    Raises:
        sqlalchemy.exc.TimeoutError: there was none in time.
    """
    try:
        async with asyncio.timeout(timeout_seconds):
            yield
    except TimeoutError as error:
        raise PoolTimeout(f"no connection within {timeout_seconds:g} s") from error


async def resolve_name(name: str, port: int) -> Sequence[str]:
    """Ask the system's resolver for a name's addresses.

    Raises:
        OSError: there is no such name.
    """
    found = await asyncio.get_running_loop().getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return [str(place[0]) for *_, place in found]


async def resolve_services(
    name: str, *, timeout_seconds: float, nameserver: tuple[str, int] | None
) -> Sequence[tuple[str, int]]:
    """Ask DNS for a name's SRV records: hosts and ports, those to be preferred first.

    Raises:
        OSError: there are none, or no server answers.
        MissingExtra: dnspython is not installed.
    """
    try:
        import dns.asyncresolver as resolvers
        from dns.exception import DNSException
    except ImportError as error:
        raise MissingExtra("srv", package="dnspython") from error
    try:
        resolver = resolvers.Resolver(configure=nameserver is None)
        if nameserver is not None:
            host, resolver.port = nameserver
            resolver.nameservers = [host]
        found = list(await resolver.resolve(name, "SRV", lifetime=timeout_seconds))
    except DNSException as error:
        raise OSError(str(error)) from error
    found.sort(key=lambda record: (record.priority, -record.weight))
    return [(str(record.target).rstrip("."), int(record.port)) for record in found]


async def run_all(*functions: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run functions at the same time, and return when all have ended."""
    async with asyncio.TaskGroup() as group:
        for function in functions:
            group.create_task(function())


class BackgroundLoop:
    """A function that runs in the background, until it ends or is stopped."""

    def __init__(self, run: Callable[[], Coroutine[Any, Any, None]], *, name: str) -> None:
        self._run = run
        self._name = name
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start it; needs the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name=self._name)

    async def ended(self, *, timeout_seconds: float) -> bool:
        """Wait until it has ended by itself; False when it has not in time."""
        if self._task is None or self._is_over(self._task):
            return True
        done, _ = await asyncio.wait([self._task], timeout=timeout_seconds)
        return bool(done)

    async def stop(self) -> None:
        """End it, and wait for that."""
        if self._task is not None and not self._is_over(self._task):
            self._task.cancel()
            await asyncio.wait([self._task])

    @staticmethod
    def _is_over(task: asyncio.Task[None]) -> bool:
        # What belongs to an event loop that was closed cannot be waited for, and runs no more.
        return task.done() or task.get_loop().is_closed()
