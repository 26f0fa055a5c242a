"""SQLAlchemy engines over connections of our own, for asyncio and for threads. Written by hand."""

import select
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

_POLL = "readreplica_poll"


def make_async_engine(
    url: URL, connect: Callable[..., Any], *, arguments: Mapping[str, Any], **pool: Any
) -> AsyncEngine:
    """Make an engine for asyncio whose connections `connect` opens."""
    arguments = {**arguments, "async_creator_fn": connect}
    engine = create_async_engine(url, connect_args=arguments, **pool)
    event.listen(engine.sync_engine, "checkout", _refuse_dead)
    return engine


def make_engine(
    url: URL, connect: Callable[..., Any], *, arguments: Mapping[str, Any], **pool: Any
) -> Engine:
    """Make an engine for threads whose connections `connect` opens."""
    engine = create_engine(url, connect_args=dict(arguments), **pool)

    # In place of the driver's. Not by the event do_connect: who listens to that may aim the engine, and comes
    # later than whoever makes it.
    engine.dialect.connect = connect  # type: ignore[method-assign]
    event.listen(engine, "checkout", _refuse_dead)
    return engine


def _refuse_dead(dbapi_connection: Any, record: Any, _: Any) -> None:
    """Have the pool replace a connection that the server has closed, without asking the server.

    Nothing arrives on an idle connection except the end of it, so a readable socket is a dead connection.
    """
    if dbapi_connection.closed:
        raise DisconnectionError
    poll = record.info.get(_POLL)
    if poll is None:  # the pool empties `info` with each new connection
        poll = record.info[_POLL] = select.poll()
        connection = getattr(dbapi_connection, "driver_connection", dbapi_connection)
        poll.register(connection.fileno(), select.POLLIN)
    if poll.poll(0):
        raise DisconnectionError
