"""PgBouncer's admin console, as a library: what it shows, and PAUSE with a time limit.

The console speaks PostgreSQL's simple protocol only, and knows no transactions.
"""

import select
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import NamedTuple

import psycopg
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGconn
from psycopg.rows import dict_row

from ops.connect import CONNECT_SECONDS, shut_after
from ops.pgbouncer.errors import CommandRefused, ConsoleSilent, PauseTimedOut
from readreplica.errors import one_line

DBNAME = "pgbouncer"
ANSWER_SECONDS = 10.0
Row = dict[str, object]


class ConsoleAddress(NamedTuple):
    """Where a console listens, and who asks: `host` may be the folder of a Unix socket."""

    host: str
    port: int
    user: str
    password: str | None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


class Console:
    """The console of one process of the pooler."""

    def __init__(self, address: ConsoleAddress) -> None:
        self.address = address

    def show(self, what: str) -> list[Row]:
        """Return the rows of `SHOW what`.

        Raises:
            ConsoleSilent: no answer, or the user is refused.
            CommandRefused: there is nothing of that name.
        """
        with self._connect() as connection:
            try:
                with shut_after(connection, seconds=ANSWER_SECONDS):
                    return connection.execute(f"SHOW {what}".encode()).fetchall()
            except psycopg.Error as error:
                raise CommandRefused(f"SHOW {what}", str(self.address), one_line(error)) from error

    def run(self, command: str, entry: str | None = None) -> None:
        """Run a command, of all entries or of one: RELOAD, RESUME, RECONNECT, KILL, DISABLE, ENABLE.

        Raises:
            ConsoleSilent: no answer, or the user is refused.
            CommandRefused: PgBouncer does not do it.
        """
        with self._connect() as connection:
            try:
                with shut_after(connection, seconds=ANSWER_SECONDS):
                    connection.execute(statement(command, entry).encode())
            except psycopg.Error as error:
                raise CommandRefused(statement(command, entry), str(self.address), one_line(error)) from error

    @contextmanager
    def _connect(self) -> Iterator[psycopg.Connection[Row]]:
        with _open(self.address) as connection:
            yield connection


def _open(address: ConsoleAddress) -> psycopg.Connection[Row]:
    try:
        return psycopg.connect(
            host=address.host,
            port=address.port,
            user=address.user,
            password=address.password,
            dbname=DBNAME,
            connect_timeout=CONNECT_SECONDS,
            autocommit=True,
            prepare_threshold=None,
            cursor_factory=psycopg.ClientCursor,
            row_factory=dict_row,
        )
    except psycopg.Error as error:
        raise ConsoleSilent(str(address), one_line(error)) from error


def statement(command: str, entry: str | None = None) -> str:
    """Write a command as the console takes it."""
    return f'{command} "{entry}"' if entry else command


def pause(consoles: Sequence[Console], entries: Sequence[str], *, timeout_seconds: float) -> None:
    """Hold the pools' clients: when this returns, no transaction is open on the servers, and new ones wait.

    All entries of all processes are paused at once, so that their waits do not add up. `resume` ends it. A
    client waits for at most query_wait_timeout.

    Parameters:
        consoles: of all processes of the pooler.
        entries: the pools.
        timeout_seconds: how long open transactions have to end.

    Raises:
        PauseTimedOut: some did not; everything was resumed.
        ConsoleSilent, CommandRefused: a process did not pause; everything that can be was resumed.
    """
    try:
        _pause_all(consoles, entries, time.monotonic() + timeout_seconds, timeout_seconds)
    except BaseException:
        # Also after Ctrl-C: no pool may stay paused.
        with suppress(ConsoleSilent):
            resume(consoles, entries)
        raise


def _pause_all(
    consoles: Sequence[Console], entries: Sequence[str], deadline: float, timeout_seconds: float
) -> None:
    with ExitStack() as stack:
        # Closed, and not left as a context manager: that would send COMMIT behind a PAUSE that still waits.
        waiting = [
            (console, entry, stack.enter_context(closing(_open(console.address))))
            for console in consoles
            for entry in entries
        ]
        for _, entry, connection in waiting:
            connection.pgconn.send_query(statement("PAUSE", entry).encode())
        late: list[str] = []
        for console, entry, connection in waiting:
            if not _answered(connection.pgconn, deadline):
                late.append(entry)
            else:
                _check(connection.pgconn, statement("PAUSE", entry), console.address)
        if late:
            raise PauseTimedOut(late, timeout_seconds)


def _answered(connection: PGconn, deadline: float) -> bool:
    connection.flush()
    while connection.is_busy():
        ready, _, _ = select.select([connection.socket], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        connection.consume_input()
    return True


def _check(connection: PGconn, command: str, address: ConsoleAddress) -> None:
    result = connection.get_result()
    if result is not None and result.status == ExecStatus.FATAL_ERROR:
        raise CommandRefused(command, str(address), result.get_error_message().strip())


def resume(consoles: Sequence[Console], entries: Sequence[str]) -> list[str]:
    """Resume the pools.

    Returns:
        The entries that had been paused; the others needed nothing.

    Raises:
        ConsoleSilent: a process does not answer.
    """
    resumed: set[str] = set()
    for console in consoles:
        paused = {str(row["name"]) for row in console.show("DATABASES") if is_paused(row)}
        for entry in sorted(paused.intersection(entries)):
            console.run("RESUME", entry)
            resumed.add(entry)
    return sorted(resumed)


def reconnect(consoles: Sequence[Console], entries: Sequence[str], *, timeout_seconds: float) -> None:
    """Replace the server connections of pools as transactions end.

    RECONNECT also breaks off a login that is under way, and PgBouncer then answers waiting clients "server
    login has been failing": so it is sent at a moment without one.

    Parameters:
        consoles: of all processes of the pooler.
        entries: the pools.
        timeout_seconds: how long such a moment is waited for; then it is sent all the same.

    Raises:
        ConsoleSilent, CommandRefused: a process does not do it.
    """
    deadline = time.monotonic() + timeout_seconds
    for console in consoles:
        for entry in entries:
            while _logins(console, entry) and time.monotonic() < deadline:
                continue
            console.run("RECONNECT", entry)


def _logins(console: Console, entry: str) -> int:
    return sum(int(str(row["sv_login"])) for row in console.show("POOLS") if row["database"] == entry)


def is_paused(row: Row) -> bool:
    """Whether a row of SHOW DATABASES is of a paused entry."""
    return str(row.get("paused", "0")) not in ("0", "no")
