"""One unit of work on several shards, all or nothing: prepare everywhere, decide, commit everywhere.

async with two_phase(sessions, [order_id, other_id], decisions=decisions, label="merge orders") as unit:
    ...  # unit.session(order_id), unit.session(other_id)

For the rare case: it holds locks on every shard while it asks the directory, and a crash leaves them held
until a recovery (`sharding.writes.in_doubt`). Most work belongs on one shard, or into messages.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol
from uuid import uuid4

import psycopg
from psycopg.errors import InFailedSqlTransaction, ObjectNotInPrerequisiteState, OutOfMemory
from sqlalchemy import event, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from readreplica.cluster import Cluster
from readreplica.errors import ReadReplicaError, driver_error, one_line
from readreplica.sessions import WriteSession
from readreplica.token import CausalToken
from readreplica.wal import UNKNOWN_POSITION, Position
from sharding.errors import BucketNotOwned, ShardTimedOut
from sharding.shard_call import connect, cut_after
from sharding.writes.bulk import Sessions
from sharding.writes.chunks import commit
from sharding.writes.errors import (
    CommitInsideUnit,
    DecisionLost,
    KeyOutsideUnit,
    PreparedDisabled,
    PrepareFailed,
    UnitAborted,
    UnitInDoubt,
    UnitRefused,
)
from sharding.writes.prepared import (
    CommitDecision,
    Decisions,
    PreparedCommand,
    end_prepared,
    end_statement,
    gid_of,
)

log = logging.getLogger("sharding.two_phase")

_SHARD_ERRORS = (SQLAlchemyError, psycopg.Error, ShardTimedOut, OSError)
_ATTEMPTS = 3


class WriteSessions(Sessions, Protocol):
    """What of `ShardedSessions` is needed here."""

    def write(self, key: int) -> WriteSession:
        """Make a write session on the key's shard."""


class TwoPhaseUnit:
    """The sessions of a unit, one for each shard; they are committed when the unit's block ends."""

    def __init__(self, sessions: WriteSessions, keys: Iterable[int], *, unit_id: str) -> None:
        self.unit_id = unit_id
        # A newer map must not put a key on another shard in the middle of the unit.
        self._shard_of = {key: sessions.shard_of(key) for key in keys}
        first_keys = {shard: key for key, shard in reversed(self._shard_of.items())}
        self.shards = tuple(sorted(first_keys))
        self.token = CausalToken()
        """What a read must have seen to see the unit; empty before its end."""
        self.unfinished: tuple[str, ...] = ()
        """Shards that are not known to have committed: the unit is, and they get it by the recovery.

        A failover that has lost what was prepared leaves nothing to recover: docs/runbooks/in-doubt.md.
        """
        self._sessions = sessions
        self._open = {shard: self._new(shard, first_keys[shard]) for shard in self.shards}

    def session(self, key: int) -> WriteSession:
        """Return the session on the shard of a key.

        Raises:
            KeyOutsideUnit: the unit was not opened for this shard.
        """
        shard = self._shard_of.get(key) or self._sessions.shard_of(key)
        if shard not in self._open:
            raise KeyOutsideUnit(key, shard, self.shards)
        return self._open[shard]

    def cluster(self, shard: str) -> Cluster:
        """Return the cluster of a shard."""
        return self._sessions.clusters[shard]

    def by_shard(self) -> dict[str, WriteSession]:
        """Return every session, in the order of the shards' names."""
        return dict(self._open)

    async def close(self) -> None:
        """Roll back what is not prepared or committed."""
        for session in self._open.values():
            await session.close()

    def _new(self, shard: str, key: int) -> WriteSession:
        session = self._sessions.write(key)

        def refuse(committed: Session) -> None:
            if not committed.in_nested_transaction():  # a savepoint may end
                raise CommitInsideUnit(shard)

        event.listen(session.sync_session, "before_commit", refuse)
        session.sync_session.info["two_phase_guard"] = refuse
        return session


def _new_unit_id() -> str:
    return uuid4().hex


@asynccontextmanager
async def two_phase(
    sessions: WriteSessions,
    keys: Iterable[int],
    *,
    decisions: Decisions,
    label: str,
    timeout_seconds: float = 30.0,
    decision_seconds: float = 30.0,
    report: Callable[[str], None] = lambda _step: None,
    new_unit_id: Callable[[], str] = _new_unit_id,
) -> AsyncIterator[TwoPhaseUnit]:
    """Open a unit of work on the shards of some keys; it is committed on all of them, or on none.

    If only one shard was written, an ordinary COMMIT is enough, and nothing is prepared.

    Parameters:
        sessions: the shards.
        keys: every key that the unit writes.
        decisions: where the decision is kept.
        label: what the unit is for, for people who find it in doubt.
        timeout_seconds: how long a shard may take for a step.
        decision_seconds: how long the directory is asked again, if it is lost during the decision.
        report: called after each step.
        new_unit_id: makes a name of 32 hexadecimal digits that was never used.

    Raises:
        UnitRefused: a shard has lost a bucket that the unit writes; nothing was written.
        OtherShard: (a statement of a session) it names a key of another shard.
        PrepareFailed: a shard could not prepare; nothing was written.
        PreparedDisabled: the shard's max_prepared_transactions does not allow it; nothing was written.
        UnitAborted: a recovery gave the unit up meanwhile; nothing was written.
        UnitInDoubt: the decision could not be written or read; the recovery will commit or abort the unit.
        CommitInsideUnit: the block committed one of the sessions.
    """
    unit = TwoPhaseUnit(sessions, keys, unit_id=new_unit_id())
    ending = _Ending(
        unit,
        decisions=decisions,
        label=label,
        timeout_seconds=timeout_seconds,
        decision_seconds=decision_seconds,
        report=report,
    )
    async with _entered(unit):
        yield unit
        await ending.run()


@asynccontextmanager
async def _entered(unit: TwoPhaseUnit) -> AsyncIterator[None]:
    """Have each session pass the gate of its cluster; roll back what is neither ended nor prepared."""
    async with AsyncExitStack() as stack:
        for session in unit.by_shard().values():
            await stack.enter_async_context(session)
        try:
            yield
        except BucketNotOwned as refusal:
            raise UnitRefused(unit.unit_id, refusal) from refusal
        finally:
            # Before the sessions would commit at the end of their own blocks.
            await unit.close()


class _Ending:
    def __init__(
        self,
        unit: TwoPhaseUnit,
        *,
        decisions: Decisions,
        label: str,
        timeout_seconds: float,
        decision_seconds: float,
        report: Callable[[str], None],
    ) -> None:
        self._unit = unit
        self._decisions = decisions
        self._label = label
        self._timeout_seconds = timeout_seconds
        self._decision_seconds = decision_seconds
        self._report = report

    async def run(self) -> None:
        parts = await self._written()
        if len(parts) < 2:
            for shard, session in parts.items():
                await self._commit_alone(shard, session)
            return
        await self._prepare_all(parts)
        decision = await self._decide(tuple(parts))
        self._report("decided")
        if decision is CommitDecision.ABORT:
            await self._roll_back(parts)
            raise UnitAborted(self._unit.unit_id)
        await self._commit_all(tuple(parts))

    async def _written(self) -> dict[str, WriteSession]:
        """Send what the sessions hold back; give those that have a transaction."""
        parts = {}
        for shard, session in self._unit.by_shard().items():
            await session.flush()
            if session.in_transaction():
                parts[shard] = session
        return parts

    async def _commit_alone(self, shard: str, session: WriteSession) -> None:
        guard = session.sync_session.info["two_phase_guard"]
        event.remove(session.sync_session, "before_commit", guard)
        connection = await connect(session, shard=shard, seconds=self._timeout_seconds)
        async with cut_after(connection, shard=shard, seconds=self._timeout_seconds):
            await commit(session, shard=shard)
        self._unit.token = session.token
        self._report("committed alone")

    async def _prepare_all(self, parts: dict[str, WriteSession]) -> None:
        tried: list[str] = []
        self._report("ready")
        try:
            for shard, session in parts.items():
                tried.append(shard)
                await self._prepare(shard, session)
                self._report(f"prepared {shard}")
        except BaseException as error:
            # Nothing is decided, so nothing is committed. The one that failed may be prepared all the same.
            await self._roll_back(tried)
            if isinstance(error, _SHARD_ERRORS):
                raise _named(self._unit.unit_id, tried[-1], error) from error
            raise

    async def _prepare(self, shard: str, session: WriteSession) -> None:
        gid = gid_of(self._unit.unit_id, shard)
        connection = await connect(session, shard=shard, seconds=self._timeout_seconds)
        driver = (await connection.get_raw_connection()).driver_connection
        assert isinstance(driver, psycopg.AsyncConnection)
        async with cut_after(connection, shard=shard, seconds=self._timeout_seconds):
            prepare = end_statement("PREPARE TRANSACTION", gid).encode()
            cursor = await driver.execute(prepare, prepare=False)
        if cursor.statusmessage == "ROLLBACK":
            raise InFailedSqlTransaction("an earlier statement had failed, and its error was swallowed")
        # The server's transaction is off this connection now: closing has nothing to roll back.
        await session.close()

    async def _decide(self, shards: tuple[str, ...]) -> CommitDecision:
        """Decide to commit. Once the decision may be written, only the directory's answer counts."""
        unit_id, give_up_at, lost = self._unit.unit_id, time.monotonic() + self._decision_seconds, False
        while True:
            try:
                return await self._decisions.decide(
                    unit_id, CommitDecision.COMMIT, label=self._label, shards=shards
                )
            except (DecisionLost, *_SHARD_ERRORS) as error:
                lost = lost or isinstance(error, DecisionLost)
                if not lost:
                    await self._roll_back(shards)
                    raise
                if time.monotonic() >= give_up_at:
                    for shard in shards:
                        self._note(shard, UNKNOWN_POSITION)
                    raise UnitInDoubt(unit_id, seconds=self._decision_seconds) from error
                log.warning("decision in doubt", extra={"unit_id": unit_id, "error": str(error)})
            await asyncio.sleep(0.2)

    async def _commit_all(self, shards: tuple[str, ...]) -> None:
        unfinished = []
        for shard in shards:
            # Until its position is known: a read of it is sent to the primary.
            self._note(shard, UNKNOWN_POSITION)
            if await self._end(shard, PreparedCommand.COMMIT):
                self._report(f"committed {shard}")
                await self._note_position(shard)
            else:
                unfinished.append(shard)
        self._unit.unfinished = tuple(unfinished)
        if not unfinished:
            try:
                await self._decisions.finish(self._unit.unit_id)
            except _SHARD_ERRORS as error:
                log.warning("end not noted", extra={"unit_id": self._unit.unit_id, "error": one_line(error)})
        self._report("finished")

    def _note(self, shard: str, position: Position) -> None:
        """Have reads of the unit's caller, and of whatever it is done in, see the unit."""
        cluster = self._unit.cluster(shard)
        token = CausalToken({cluster.name: position})
        self._unit.token = self._unit.token.merge(token)
        cluster.gate.after_commit(token)

    async def _note_position(self, shard: str) -> None:
        """Read the position behind COMMIT PREPARED: an empty write session's commit returns it."""
        try:
            async with self._unit.cluster(shard).write() as session:
                connection = await connect(session, shard=shard, seconds=self._timeout_seconds)
                async with cut_after(connection, shard=shard, seconds=self._timeout_seconds):
                    await connection.execute(text("SELECT 1"))
                    await session.commit()
            self._unit.token = self._unit.token.followed_by(session.token)
        except (*_SHARD_ERRORS, ReadReplicaError) as error:
            log.warning(
                "no token", extra={"unit_id": self._unit.unit_id, "shard": shard, "error": one_line(error)}
            )

    async def _roll_back(self, shards: Iterable[str]) -> None:
        for shard in shards:
            await self._unit.by_shard()[shard].close()
            await self._end(shard, PreparedCommand.ROLLBACK)

    async def _end(self, shard: str, verb: PreparedCommand) -> bool:
        """End a part, with patience; what does not end now is ended by the recovery."""
        gid = gid_of(self._unit.unit_id, shard)
        # A rollback is not needed at once, as a commit is.
        for attempt in range(_ATTEMPTS if verb is PreparedCommand.COMMIT else 1):
            try:
                ended = await end_prepared(
                    self._unit.cluster(shard).primary,
                    gid,
                    verb,
                    shard=shard,
                    timeout_seconds=self._timeout_seconds,
                )
                if ended or verb is PreparedCommand.ROLLBACK:
                    return True
                said = "it is not prepared there: a recovery was faster, or a failover has lost it"
                break
            except ShardTimedOut as error:
                said = one_line(error)
                break
            except _SHARD_ERRORS as error:
                said = one_line(error)
                await asyncio.sleep(0.1 * attempt)
        log.warning(
            "not ended",
            extra={"unit_id": self._unit.unit_id, "shard": shard, "verb": verb.value, "error": said},
        )
        return False


def _named(unit_id: str, shard: str, error: BaseException) -> Exception:
    found = driver_error(error)
    # "prepared transactions are disabled", and "maximum number of prepared transactions reached"
    if isinstance(found, ObjectNotInPrerequisiteState | OutOfMemory):
        return PreparedDisabled(shard, str(found.diag.message_primary))
    return PrepareFailed(unit_id, shard, one_line(error))
