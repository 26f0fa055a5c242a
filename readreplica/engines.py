"""Engines for the sessions: one that writes, one that only reads. A cluster is built of these."""

import select
from collections.abc import Awaitable, Callable
from typing import Any

from psycopg import AsyncConnection
from sqlalchemy import URL, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from readreplica.connections import open_reader, open_writer

CONNECT_TIMEOUT_SECONDS = 3

Greeting = Callable[[AsyncConnection[Any]], Awaitable[None]]
"""Is given each new connection, in autocommit mode, before anything else uses it; an error refuses it."""


def writer_engine(
    url: URL, *, application_name: str, greet: Greeting | None = None, **pool: Any
) -> AsyncEngine:
    """Make an engine for a primary; its commits note their WAL position.

    Parameters:
        url: the primary, with the psycopg driver.
        application_name: what pg_stat_activity shows.
        greet: looks at each new connection once.
        pool: options of SQLAlchemy's pool (pool_size, max_overflow, pool_timeout).
    """
    return _engine(url, greeted(open_writer, greet), application_name, pool)


def reader_engine(
    url: URL, *, application_name: str, greet: Greeting | None = None, **pool: Any
) -> AsyncEngine:
    """Make an engine whose transactions are read only, each with one snapshot; for a replica or a primary.

    Parameters: as for `writer_engine`.
    """
    return _engine(url, greeted(open_reader, greet), application_name, pool)


def greeted(connect: Any, greet: Greeting | None) -> Any:
    """Have a function that connects greet its connections."""
    if greet is None:
        return connect

    async def connect_and_greet(*args: Any, **options: Any) -> AsyncConnection[Any]:
        connection: AsyncConnection[Any] = await connect(*args, **options)
        try:
            await connection.set_autocommit(True)  # no transaction left open
            await greet(connection)
            await connection.set_autocommit(False)
        except BaseException:
            await connection.close()
            raise
        return connection

    return connect_and_greet


def _engine(url: URL, connect: Any, application_name: str, pool: dict[str, Any]) -> AsyncEngine:
    engine = create_async_engine(
        url,
        connect_args={
            "async_creator_fn": connect,
            "application_name": application_name,
            "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        },
        **pool,
    )
    event.listen(engine.sync_engine, "checkout", _refuse_dead)
    return engine


def _refuse_dead(dbapi_connection: Any, *_: Any) -> None:
    """Have the pool replace a connection that the server has closed, without asking the server.

    Nothing arrives on an idle connection except the end of it, so a readable socket is a dead connection.
    """
    connection = dbapi_connection.driver_connection
    if connection.closed or _readable(connection.fileno()):
        raise DisconnectionError


def _readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
