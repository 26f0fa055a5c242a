"""SQLAlchemy engines over connections of our own, for asyncio and for threads. Written by hand."""

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import URL, Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from readreplica.eviction import epoch_of


def make_async_engine(
    url: URL, connect: Callable[..., Any], *, arguments: Mapping[str, Any], **pool: Any
) -> AsyncEngine:
    """Make an engine for asyncio whose connections `connect` opens."""
    arguments = {**arguments, "async_creator_fn": connect}
    engine = create_async_engine(url, connect_args=arguments, **pool)
    epoch_of(engine.sync_engine)
    return engine


def make_engine(
    url: URL, connect: Callable[..., Any], *, arguments: Mapping[str, Any], **pool: Any
) -> Engine:
    """Make an engine for threads whose connections `connect` opens."""
    engine = create_engine(url, connect_args=dict(arguments), **pool)

    # In place of the driver's. Not by the event do_connect: who listens to that may aim the engine, and comes
    # later than whoever makes it.
    engine.dialect.connect = connect  # type: ignore[method-assign]
    epoch_of(engine)
    return engine
