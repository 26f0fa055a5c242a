"""Prepared transactions as PostgreSQL shows them, their names, and how one is ended."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from psycopg.errors import UndefinedObject
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from readreplica.errors import driver_error
from sharding.shard_call import cut_after

PREFIX = "mes-storage"
_GID = re.compile(rf"{PREFIX}:([0-9a-f]{{32}}):([a-z][a-z0-9_]{{0,62}})")

# A prepared transaction has no process. Its lock on its own number tells the virtual transaction (that of the
# session that prepared it; after a restart, one of its own) under which its other locks stand.
_LIST = text("""
    WITH held AS (
        SELECT own.transactionid AS xid, lock.*
        FROM pg_locks AS own JOIN pg_locks AS lock
             ON lock.pid IS NULL AND lock.virtualtransaction = own.virtualtransaction
        WHERE own.pid IS NULL AND own.locktype = 'transactionid'
    )
    SELECT gid, owner, prepared AS prepared_at, age(transaction) AS xid_age,
           extract(epoch FROM clock_timestamp() - prepared)::float8 AS age_seconds,
           ARRAY(SELECT DISTINCT relation::regclass || ' ' || mode FROM held
                 WHERE xid = transaction AND locktype = 'relation' ORDER BY 1) AS locks,
           ARRAY(SELECT DISTINCT waiting.pid FROM held JOIN pg_locks AS waiting
                 ON NOT waiting.granted AND waiting.locktype = held.locktype
                 AND (waiting.database, waiting.relation, waiting.page, waiting.tuple, waiting.transactionid)
                 IS NOT DISTINCT FROM
                 (held.database, held.relation, held.page, held.tuple, held.transactionid)
                 WHERE xid = transaction ORDER BY 1) AS waiting_pids
    FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared, gid
""")


class PreparedCommand(StrEnum):
    """The two ends of a prepared transaction."""

    COMMIT = "COMMIT PREPARED"
    ROLLBACK = "ROLLBACK PREPARED"


@dataclass(frozen=True)
class Prepared:
    """A prepared transaction of one shard.

    Parameters:
        shard: where it was found.
        gid: its name.
        owner: the role that prepared it; only this role and a superuser can end it.
        prepared_at: when it was prepared, by the shard's clock.
        age_seconds: how long ago that was.
        xid_age: how many transactions ago it began. Vacuum cannot clean up what is younger.
        locks: the tables that it holds, with the mode.
        waiting_pids: the sessions that wait for it.
    """

    shard: str
    gid: str
    owner: str
    prepared_at: datetime
    age_seconds: float
    xid_age: int
    locks: tuple[str, ...]
    waiting_pids: tuple[int, ...]

    @property
    def unit_id(self) -> str | None:
        """The unit that it belongs to; None if it is not one of ours, or one of another shard's copy."""
        found = _GID.fullmatch(self.gid)
        return found[1] if found and found[2] == self.shard else None


def gid_of(unit_id: str, shard: str) -> str:
    """Name the part of a unit on a shard. PostgreSQL takes 200 bytes; this has 108 at most."""
    return f"{PREFIX}:{unit_id}:{shard}"


def end_statement(verb: str, gid: str) -> str:
    """Give the statement that names a prepared transaction as its object."""
    quoted = gid.replace("'", "''")
    return f"{verb} '{quoted}'"


async def list_prepared(engine: AsyncEngine, *, shard: str, timeout_seconds: float) -> Sequence[Prepared]:
    """Read the prepared transactions of a shard.

    Raises:
        DBAPIError: the shard cannot be reached.
        ShardTimedOut: it did not answer.
    """
    async with (
        engine.connect() as connection,
        cut_after(connection, shard=shard, seconds=timeout_seconds),
    ):
        rows = (await connection.execute(_LIST)).mappings().all()
    arrays = ("locks", "waiting_pids")
    return [Prepared(shard=shard, **{**row, **{name: tuple(row[name]) for name in arrays}}) for row in rows]


async def end_prepared(
    engine: AsyncEngine, gid: str, verb: PreparedCommand, *, shard: str, timeout_seconds: float
) -> bool:
    """Commit or roll back a prepared transaction.

    Returns:
        False if there is none of this name: somebody else has ended it, or a failover has lost it.

    Raises:
        DBAPIError: the shard refused, or cannot be reached. Trying again does no harm.
        ShardTimedOut: it did not answer.
    """
    # These statements cannot run in a transaction block.
    outside = engine.execution_options(isolation_level="AUTOCOMMIT")
    try:
        async with (
            outside.connect() as connection,
            cut_after(connection, shard=shard, seconds=timeout_seconds),
        ):
            await connection.exec_driver_sql(end_statement(verb, gid))
    except DBAPIError as error:
        if isinstance(driver_error(error), UndefinedObject):
            return False
        raise
    return True
