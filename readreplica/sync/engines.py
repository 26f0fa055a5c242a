# Generated from readreplica/engines.py by `make twins`: change that file, not this one.
"""Engines for the sessions: one that writes, one that only reads. A cluster is built of these."""

from functools import partial
from typing import Any

from sqlalchemy import URL, Engine

from readreplica.making import EngineKind, make_engine
from readreplica.sync.connections import Greet, open_reader, open_writer

CONNECT_TIMEOUT_SECONDS = 3


def writer_engine(
    url: URL,
    *,
    application_name: str,
    greet: Greet | None = None,
    traced: bool = False,
    prepare_threshold: int | None = 5,
    **pool: Any,
) -> Engine:
    """Make an engine for a primary; its commits note their WAL position.

    Parameters:
        url: the primary, with the psycopg driver.
        application_name: what pg_stat_activity shows.
        greet: is given each new connection once, before any work, and raises to refuse it.
        traced: ask for each transaction's id before its COMMIT, so that one whose answer is lost can be
            resolved; one more round trip.
        prepare_threshold: psycopg's; None for a pooler without prepared statements (PgBouncer before 1.21).
        pool: options of SQLAlchemy's pool (pool_size, max_overflow, pool_timeout).
    """
    connect = partial(open_writer, greet=greet, traced=traced)
    return make_engine(
        url,
        connect,
        kind=EngineKind.WRITER,
        arguments=_arguments(application_name, prepare_threshold),
        **pool,
    )


def reader_engine(
    url: URL,
    *,
    application_name: str,
    greet: Greet | None = None,
    prepare_threshold: int | None = 5,
    **pool: Any,
) -> Engine:
    """Make an engine whose transactions are read only, each with one snapshot; for a replica or a primary.

    Parameters: as for `writer_engine`.
    """
    connect = partial(open_reader, greet=greet)
    return make_engine(
        url,
        connect,
        kind=EngineKind.READER,
        arguments=_arguments(application_name, prepare_threshold),
        **pool,
    )


def _arguments(application_name: str, prepare_threshold: int | None) -> dict[str, Any]:
    return {
        "application_name": application_name,
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "prepare_threshold": prepare_threshold,
    }
