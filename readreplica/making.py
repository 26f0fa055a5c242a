"""SQLAlchemy engines over connections of our own, for asyncio and for threads. Written by hand."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import URL, Dialect, Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from readreplica.eviction import epoch_of


class EngineKind(StrEnum):
    """What the connections of an engine are for."""

    WRITER = "writer"
    READER = "reader"


# By dialect, which an engine shares with those that its `execution_options` gives.
_kinds: WeakKeyDictionary[Dialect, EngineKind] = WeakKeyDictionary()


def make_async_engine(
    url: URL, connect: Callable[..., Any], *, kind: EngineKind, arguments: Mapping[str, Any], **pool: Any
) -> AsyncEngine:
    """Make an engine for asyncio whose connections `connect` opens."""
    arguments = {**arguments, "async_creator_fn": connect}
    engine = create_async_engine(url, connect_args=arguments, **pool)
    _note(engine.sync_engine, kind)
    return engine


def make_engine(
    url: URL, connect: Callable[..., Any], *, kind: EngineKind, arguments: Mapping[str, Any], **pool: Any
) -> Engine:
    """Make an engine for threads whose connections `connect` opens."""
    engine = create_engine(url, connect_args=dict(arguments), **pool)

    # In place of the driver's. Not by the event do_connect: who listens to that may aim the engine, and comes
    # later than whoever makes it.
    engine.dialect.connect = connect  # type: ignore[method-assign]
    _note(engine, kind)
    return engine


def _note(engine: Engine, kind: EngineKind) -> None:
    epoch_of(engine)
    _kinds[engine.dialect] = kind


def kind_of(engine: Engine) -> EngineKind | None:
    """Return the kind of an engine that was made here; None for any other."""
    return _kinds.get(engine.dialect)
