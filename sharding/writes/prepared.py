"""What is kept of a two-phase unit: its prepared transactions on the shards, the decision in the directory.

The decision is one row, which is written once. A coordinator that is to commit and a recovery that is to
abort insert under the same key, so one of them is first, and the other follows it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from psycopg.errors import UndefinedObject
from sqlalchemy import bindparam, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from readreplica.errors import driver_error, is_connection_lost
from sharding.errors import ShardTimedOut
from sharding.shard_call import cut_after
from sharding.writes.errors import DecisionLost

PREFIX = "mes-storage"
_GID = re.compile(rf"{PREFIX}:([0-9a-f]{{32}}):([a-z][a-z0-9_]{{0,62}})")

# A prepared transaction has no process. Its lock on its own number has the virtual transaction (that of the
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
    """Return the statement that names a prepared transaction as its object."""
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
        False if there is none of this name: another recovery has ended it, or a failover has lost it.

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


_DECIDE = text("""
    INSERT INTO two_phase_decisions (tree, unit_id, decision, label, shards)
    VALUES (:tree, :unit_id, :decision, :label, :shards) ON CONFLICT (unit_id) DO NOTHING
""")
_READ = text("SELECT decision FROM two_phase_decisions WHERE unit_id = :unit_id")
_FIND = text("""
    SELECT unit_id, decision, label, shards FROM two_phase_decisions WHERE unit_id IN :unit_ids
""").bindparams(bindparam("unit_ids", expanding=True))
_UNFINISHED = text("""
    SELECT unit_id, label, shards, decided_at,
           extract(epoch FROM clock_timestamp() - decided_at)::float8 AS age_seconds
    FROM two_phase_decisions WHERE tree = :tree AND decision = 'commit' AND finished_at IS NULL
    ORDER BY decided_at, unit_id
""")
_FINISH = text("""
    UPDATE two_phase_decisions SET finished_at = clock_timestamp()
    WHERE unit_id = :unit_id AND finished_at IS NULL
""")
_PURGE = text("""
    DELETE FROM two_phase_decisions
    WHERE tree = :tree AND finished_at < clock_timestamp() - CAST(:age AS interval)
""")

NAME = "directory"


class CommitDecision(StrEnum):
    """How a unit ends."""

    COMMIT = "commit"
    ABORT = "abort"


@dataclass(frozen=True)
class Decided:
    """A decision, with what the unit was for and the shards that it wrote."""

    decision: CommitDecision
    label: str
    shards: tuple[str, ...]


@dataclass(frozen=True)
class Unfinished:
    """A unit whose decision is to commit, without a record that every shard has done so."""

    unit_id: str
    label: str
    shards: tuple[str, ...]
    decided_at: datetime
    age_seconds: float


class Decisions:
    """The decisions on units of a tree, in the directory behind `engine`."""

    def __init__(self, engine: AsyncEngine, tree: str, *, timeout_seconds: float = 10.0) -> None:
        self.tree = tree
        self._engine = engine
        self._timeout_seconds = timeout_seconds

    async def decide(
        self, unit_id: str, decision: CommitDecision, *, label: str, shards: Sequence[str]
    ) -> CommitDecision:
        """Decide on a unit, unless it is decided already.

        Returns:
            the decision that stands; it is durable.

        Raises:
            DecisionLost: the directory was lost meanwhile, so that the decision may be written or not.
                Asking again does no harm.
            DBAPIError: the directory cannot be reached, or has refused; nothing was decided by this call.
        """
        row = {
            "tree": self.tree,
            "unit_id": unit_id,
            "decision": decision.value,
            "label": label,
            "shards": ",".join(shards),
        }
        async with self._engine.connect() as connection:
            try:
                async with cut_after(connection, shard=NAME, seconds=self._timeout_seconds):
                    await connection.execute(_DECIDE, row)
                    stands = (await connection.execute(_READ, {"unit_id": unit_id})).scalar_one()
                    await connection.commit()
            except (DBAPIError, ShardTimedOut) as error:
                if isinstance(error, ShardTimedOut) or is_connection_lost(error):
                    raise DecisionLost(unit_id) from error
                raise
        return CommitDecision(stands)

    async def find(self, unit_ids: Iterable[str]) -> Mapping[str, Decided]:
        """Read what was decided of these units; one that is undecided is not among the answers."""
        wanted = sorted(set(unit_ids))
        if not wanted:
            return {}
        async with (
            self._engine.connect() as connection,
            cut_after(connection, shard=NAME, seconds=self._timeout_seconds),
        ):
            rows = (await connection.execute(_FIND, {"unit_ids": wanted})).all()
        return {
            row.unit_id: Decided(CommitDecision(row.decision), row.label, tuple(row.shards.split(",")))
            for row in rows
        }

    async def unfinished(self) -> list[Unfinished]:
        """Read which units were decided to commit and are not noted as finished, the oldest first."""
        async with (
            self._engine.connect() as connection,
            cut_after(connection, shard=NAME, seconds=self._timeout_seconds),
        ):
            rows = (await connection.execute(_UNFINISHED, {"tree": self.tree})).mappings().all()
        return [Unfinished(**{**row, "shards": tuple(row["shards"].split(","))}) for row in rows]

    async def finish(self, unit_id: str) -> None:
        """Note that no shard has the unit prepared any more."""
        async with (
            self._engine.connect() as connection,
            cut_after(connection, shard=NAME, seconds=self._timeout_seconds),
        ):
            await connection.execute(_FINISH, {"unit_id": unit_id})
            await connection.commit()  # within the time limit, as everywhere here

    async def purge(self, *, older_than: timedelta) -> int:
        """Forget the decisions of units that were finished so long ago."""
        async with (
            self._engine.connect() as connection,
            cut_after(connection, shard=NAME, seconds=self._timeout_seconds),
        ):
            forgotten = (await connection.execute(_PURGE, {"tree": self.tree, "age": older_than})).rowcount
            await connection.commit()
        return forgotten
