"""How `mesctl` connects: a server that has stopped answering is found out, and holds up no verb.

The limit is for silence, not for length. A frozen server answers neither a query nor its cancellation, and
its kernel still acknowledges every packet; so a second connection asks it something small every second, and
when that is not answered the sockets of the first ones are cut. An index may be built for hours meanwhile.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Self

import psycopg
from psycopg.errors import ConnectionTimeout

CONNECT_SECONDS = 4
"""How long a server has to take a new connection."""

SILENT_SECONDS = 5.0
"""How long a server has to answer SELECT 1 while it is at work for us."""

PROBE_EVERY_SECONDS = 1.0

CONNECT_ARGUMENTS: Mapping[str, int] = {
    "connect_timeout": CONNECT_SECONDS,
    # For a machine that is gone, whose kernel acknowledges nothing.
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 4,
    "tcp_user_timeout": int(SILENT_SECONDS * 1000),
}


def _shut(connection: Any) -> None:
    from readreplica.pool import shut  # with SQLAlchemy, which `up`, `down` and `status` do without

    shut(connection)


class ServerUnresponsive(psycopg.OperationalError):
    """A server answers nothing, though its kernel may: it is frozen, or cannot be reached."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__(f"it does not answer: nothing came within {seconds:g} s")


def open_connection(conninfo: str = "", **words: Any) -> psycopg.Connection:
    """Connect to a server.

    Parameters:
        conninfo: libpq's words in one string.
        words: psycopg's, which may override ours.

    Raises:
        ServerUnresponsive: nothing came in time.
        psycopg.OperationalError: it refuses.
    """
    try:
        return psycopg.connect(conninfo, **{**CONNECT_ARGUMENTS, **words})
    except ConnectionTimeout as error:
        raise ServerUnresponsive(float(words.get("connect_timeout", CONNECT_SECONDS))) from error


@contextmanager
def shut_after(connection: psycopg.Connection[Any], *, seconds: float) -> Iterator[None]:
    """Cut a connection that is still busy after so many seconds.

    Raises:
        ServerUnresponsive: the time was over.
    """
    cut = threading.Event()

    def end() -> None:
        cut.set()
        _shut(connection)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except psycopg.Error as error:
        if cut.is_set():
            raise ServerUnresponsive(seconds) from error
        raise
    finally:
        timer.cancel()


class Watchdog:
    """Cuts the connections to a server when it no longer answers; used with `with`.

    Parameters:
        connect: opens one more connection to the same server. It is not called before there is something to
            watch for as long as `PROBE_EVERY_SECONDS`.
    """

    def __init__(self, connect: Callable[[], psycopg.Connection]) -> None:
        self.has_shut = False
        self._connect = connect
        self._watched: list[psycopg.Connection] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def add(self, connection: psycopg.Connection) -> None:
        """Watch one more connection until it is closed."""
        with self._lock:
            self._watched = [each for each in self._watched if not each.closed]
            self._watched.append(connection)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._probe, name="mesctl watch", daemon=True)
                self._thread.start()

    def _probe(self) -> None:
        probe: psycopg.Connection | None = None
        while not self._ended.wait(PROBE_EVERY_SECONDS):
            try:
                probe = probe or self._connect()
                with shut_after(probe, seconds=SILENT_SECONDS):
                    probe.execute("SELECT 1")
            except ServerUnresponsive:
                self._shut_all()
                break
            except psycopg.Error:
                probe = None  # it refuses, which is an answer; or it has gone, which every socket shows
        if probe is not None:
            probe.close()

    def _shut_all(self) -> None:
        with self._lock:
            self.has_shut = True
            for connection in self._watched:
                _shut(connection)


@contextmanager
def connected(**words: Any) -> Iterator[psycopg.Connection]:
    """Connect to a server; each statement is a transaction of its own, and may take as long as it needs.

    Parameters:
        words: psycopg's.

    Raises:
        ServerUnresponsive: the server does not answer, or no longer.
        psycopg.Error: it refuses.
    """
    again = partial(open_connection, **{**words, "autocommit": True})
    with Watchdog(again) as watch, again() as connection:
        watch.add(connection)
        try:
            yield connection
        except psycopg.Error as error:
            if watch.has_shut and not isinstance(error, ServerUnresponsive):
                raise ServerUnresponsive(SILENT_SECONDS) from error
            raise
