"""What was decided of each two-phase unit: one row in the directory, which is written once.

The row is the decision. A coordinator that wants to commit and a recovery that wants to abort insert under
the same key, so one of them is first, and the other obeys.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import bindparam, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from readreplica.errors import is_connection_lost
from sharding.errors import ShardTimedOut
from sharding.shard_call import cut_after
from sharding.writes.errors import DecisionLost

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


class Decision(StrEnum):
    """How a unit ends."""

    COMMIT = "commit"
    ABORT = "abort"


@dataclass(frozen=True)
class Decided:
    """A decision, with what the unit was for and the shards that it wrote."""

    decision: Decision
    label: str
    shards: tuple[str, ...]


@dataclass(frozen=True)
class Unfinished:
    """A unit that was decided to commit, and of which nobody has noted that every shard has done so."""

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
        self, unit_id: str, decision: Decision, *, label: str, shards: Sequence[str]
    ) -> Decision:
        """Decide on a unit, unless it is decided already.

        Returns:
            the decision that stands; it is durable.

        Raises:
            DecisionLost: the directory was lost while it was told, so that it may have been told or not.
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
        return Decision(stands)

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
            row.unit_id: Decided(Decision(row.decision), row.label, tuple(row.shards.split(",")))
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
