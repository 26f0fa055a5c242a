"""A time limit that holds even when the server is frozen, and an error on one line.

Cancelling a query asks the server for its help, which a frozen server does not give: psycopg then waits ten
seconds more. So the socket is cut: the driver sees the connection end at once, and the server rolls back when
it wakes and finds nobody there.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from readreplica.errors import driver_error
from sharding.errors import ShardTimedOut


@asynccontextmanager
async def cut_after(connection: AsyncConnection, *, shard: str, seconds: float) -> AsyncIterator[None]:
    """Cut a connection that is still busy after so many seconds.

    Raises:
        ShardTimedOut: it was cut; the driver's error is chained.
    """
    driver = (await connection.get_raw_connection()).driver_connection
    assert isinstance(driver, psycopg.AsyncConnection)
    # A descriptor of our own: the number of the driver's may be another socket's by the time.
    with socket.socket(fileno=os.dup(driver.fileno())) as line:
        cut = _Cut(line)
        timer = asyncio.get_running_loop().call_later(seconds, cut)
        try:
            yield
        except (DBAPIError, psycopg.Error) as error:
            if driver.closed and not connection.invalidated:
                await connection.invalidate()  # or the session would try to roll back on it
            if cut.done:
                raise ShardTimedOut(shard, seconds=seconds) from error
            raise
        finally:
            timer.cancel()


class _Cut:
    def __init__(self, line: socket.socket) -> None:
        self.done = False
        self._line = line

    def __call__(self) -> None:
        self.done = True
        with suppress(OSError):  # it has ended by itself
            self._line.shutdown(socket.SHUT_RDWR)


def words_of(error: BaseException) -> str:
    """Give an error on one line, in the server's words where they are the server's."""
    return " ".join(str(driver_error(error) or error).split()) or type(error).__name__
