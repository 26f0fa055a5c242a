# Generated from readreplica/engines.py by `make sync`: change that file, not this one.
"""Engines for the sessions: one that writes, one that only reads. A cluster is built of these."""

from functools import partial
from typing import Any

from sqlalchemy import URL, Engine

from readreplica.options import CONNECT_TIMEOUT_SECONDS
from readreplica.pool import EngineKind, register_engine
from readreplica.sync.concurrency import make_engine
from readreplica.sync.connections import Configure, open_reader, open_writer


def writer_engine(
    url: URL,
    *,
    application_name: str,
    configure: Configure | None = None,
    record_xid: bool = False,
    prepare_threshold: int | None = 5,
    **pool: Any,
) -> Engine:
    """Return an engine for a primary; its commits note their WAL position.

    Parameters:
        url: the primary, with the psycopg driver.
        application_name: what pg_stat_activity shows.
        configure: called with each new connection once, before any work; raises to refuse it.
        record_xid: ask for each transaction's id before its COMMIT, so that one whose answer is lost can be
            resolved; one more round trip.
        prepare_threshold: psycopg's; None for a pooler without prepared statements (PgBouncer before 1.21).
        pool: options of SQLAlchemy's pool (pool_size, max_overflow, pool_timeout).
    """
    connect = partial(open_writer, configure=configure, record_xid=record_xid)
    arguments = _connect_args(application_name, prepare_threshold)
    engine = make_engine(url, connect, connect_args=arguments, **pool)
    register_engine(engine, EngineKind.WRITER)
    return engine


def reader_engine(
    url: URL,
    *,
    application_name: str,
    configure: Configure | None = None,
    prepare_threshold: int | None = 5,
    **pool: Any,
) -> Engine:
    """Return an engine whose transactions are read only, each with one snapshot; for a replica or a primary.

    Parameters: as for `writer_engine`.
    """
    connect = partial(open_reader, configure=configure)
    arguments = _connect_args(application_name, prepare_threshold)
    engine = make_engine(url, connect, connect_args=arguments, **pool)
    register_engine(engine, EngineKind.READER)
    return engine


def _connect_args(application_name: str, prepare_threshold: int | None) -> dict[str, Any]:
    return {
        "application_name": application_name,
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "prepare_threshold": prepare_threshold,
    }
