"""What differs between asyncio and threads: the side of threads, written by hand."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Event, Lock
from typing import Any

from sqlalchemy import URL, Engine, create_engine

from readreplica.errors import MissingExtra
from readreplica.pool import shut

__all__ = [
    "BackgroundThread",
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

STOP_TIMEOUT_SECONDS = 10.0

sleep = time.sleep


def running_loop() -> object:
    """Return None: what waits here belongs to no loop, and any thread may wait."""
    return None


def wait_for(event: Event, *, timeout_seconds: float) -> bool:
    """Wait until the event is set; False when that did not happen in time."""
    return event.wait(timeout_seconds)


def make_engine(
    url: URL, connect: Callable[..., Any], *, connect_args: Mapping[str, Any], **pool: Any
) -> Engine:
    """Return an engine whose connections `connect` opens.

    Parameters:
        url: the database.
        connect: opens a driver's connection.
        connect_args: passed to it, with what the URL says.
        pool: options of SQLAlchemy's pool.
    """
    # An error repeats the parameters in its text, which stands in logs and traces.
    engine = create_engine(url, connect_args=dict(connect_args), hide_parameters=True, **pool)
    # In place of the driver's. Not by the event do_connect: a listener to that may aim the engine elsewhere,
    # and is added later.
    engine.dialect.connect = connect  # type: ignore[method-assign]
    return engine


@contextmanager
def deadline(connection: Any, *, timeout_seconds: float) -> Iterator[None]:
    """Shut the connection if the block takes longer; what waits in it fails with OperationalError."""
    timer = threading.Timer(timeout_seconds, shut, [connection])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def pool_wait(*, timeout_seconds: float) -> Iterator[None]:  # noqa: ARG001
    """Let the pool's own timeout hold: a thread that waits for it cannot be cancelled."""
    yield


def resolve_name(name: str, port: int) -> Sequence[str]:
    """Ask the system's resolver for a name's addresses.

    Raises:
        OSError: there is no such name.
    """
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return [str(place[0]) for *_, place in found]


def resolve_services(
    name: str, *, timeout_seconds: float, nameserver: tuple[str, int] | None
) -> Sequence[tuple[str, int]]:
    """Ask DNS for a name's SRV records: hosts and ports, those to be preferred first.

    Raises:
        OSError: there are none, or no server answers.
        MissingExtra: dnspython is not installed.
    """
    try:
        import dns.resolver as resolvers
        from dns.exception import DNSException
    except ImportError as error:
        raise MissingExtra("srv", package="dnspython") from error
    try:
        resolver = resolvers.Resolver(configure=nameserver is None)
        if nameserver is not None:
            host, resolver.port = nameserver
            resolver.nameservers = [host]
        found = list(resolver.resolve(name, "SRV", lifetime=timeout_seconds))
    except DNSException as error:
        raise OSError(str(error)) from error
    found.sort(key=lambda record: (record.priority, -record.weight))
    return [(str(record.target).rstrip("."), int(record.port)) for record in found]


def run_all(*functions: Callable[[], None]) -> None:
    """Run functions at the same time, and return when all have ended."""
    threads = [threading.Thread(target=function, daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class BackgroundThread:
    """A function that runs in the background, until it ends or is stopped."""

    def __init__(self, run: Callable[[], None], *, name: str) -> None:
        self._run = run
        self._name = name
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start it."""
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def ended(self, *, timeout_seconds: float) -> bool:
        """Wait until it has ended by itself; False when it has not in time."""
        if self._thread is None:
            return True
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def stop(self) -> None:
        """Wait for its end, 10 s at most; it must have been asked to end before."""
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT_SECONDS)
