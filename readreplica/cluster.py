"""A cluster: one primary with its streaming replicas, and the sessions on them.

Which node is the primary is found by role and timeline, never by name: after a failover the same `Cluster`
and the same engines go on with the new one. See docs/replicas.md.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from readreplica.bases import Unit, Want
from readreplica.concurrency import Lock, sleep
from readreplica.engines import reader_engine, writer_engine
from readreplica.errors import CommitInDoubt, CommitLost, WritesRefused, WrongEngine
from readreplica.fate import Fate
from readreplica.faults import is_outage, may_read_elsewhere
from readreplica.freshness import ANY, Freshness
from readreplica.freshness import PRIMARY as PRIMARY_ONLY
from readreplica.gate import WriteGate
from readreplica.health import Fault, Health
from readreplica.lsn import Lsn
from readreplica.making import EngineKind, kind_of
from readreplica.metrics import ClusterMetrics
from readreplica.monitor import Monitor
from readreplica.nodes import Node
from readreplica.options import DEFAULTS, ReplicaOptions
from readreplica.resolve import resolve
from readreplica.retry import retry_unit
from readreplica.router import FORMER_PRIMARY, PRIMARY, Router
from readreplica.sessions import ReadSession, WriteSession
from readreplica.token import CausalToken, Position
from readreplica.writer import Writer

__all__ = ["PRIMARY", "Cluster"]

T = TypeVar("T")
OUTAGE_PAUSE_SECONDS = 0.02
LONGEST_OUTAGE_PAUSE_SECONDS = 0.5


class Cluster:
    """Gives read and write sessions on one primary and its replicas."""

    def __init__(
        self,
        name: str,
        *,
        primary: AsyncEngine,
        primary_reader: AsyncEngine,
        replicas: Mapping[str, AsyncEngine],
        options: ReplicaOptions = DEFAULTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Put a cluster together from engines of `readreplica.engines`; `close` disposes them.

        Parameters:
            name: the cluster's name in causal tokens.
            primary: a writer engine. It is aimed at whichever of the nodes is the primary.
            primary_reader: a reader engine to the node that is the primary now, for reads that no replica can
                serve. A pool of its own: what is read there cannot write, and readers do not take the
                writers' connections. If that node comes back as a replica, it serves reads as one.
            replicas: reader engines to the replicas, by name.
            options: periods, bounds and budgets.
            clock: a monotonic clock, in seconds.

        Raises:
            WrongEngine: an engine is of another kind, or not of `readreplica.engines`.
        """
        _check_kind(primary, EngineKind.WRITER, cluster=name, role="primary")
        _check_kind(primary_reader, EngineKind.READER, cluster=name, role="primary_reader")
        for replica, engine in replicas.items():
            _check_kind(engine, EngineKind.READER, cluster=name, role=f"replica {replica!r}")
        self.name = name
        self.primary = primary
        self.options = options
        self._clock = clock
        metrics = ClusterMetrics(name)
        self._nodes = [Node(PRIMARY, primary_reader, as_replica=FORMER_PRIMARY)]
        self._nodes += [Node(node, engine) for node, engine in replicas.items()]
        self.monitor = Monitor(
            name,
            self._nodes,
            options=options,
            clock=clock,
            metrics=metrics,
            on_new_primary=self._on_new_primary,
        )
        self.writer = Writer(name, primary, self.monitor)
        for node in self._nodes:
            self.writer.watch_reader(node)
        self.router = Router(name, self._nodes, self.monitor, options=options, metrics=metrics, clock=clock)
        self.gate = WriteGate(
            name, hear_all=partial(self.monitor.hear_all, timeout_seconds=2 * options.answer_seconds)
        )
        self._wanted: Callable[[], CausalToken | None] | None = None
        self._settle_seconds: float | None = None
        self._listeners: list[Callable[[AsyncEngine], None]] = []
        self._adding = Lock()

    def carry(
        self, *, wanted: Callable[[], CausalToken | None], committed: Callable[[CausalToken], None]
    ) -> None:
        """Let tokens be carried by what surrounds the units of work, such as a request.

        Parameters:
            wanted: gives what a read must have seen beside its own `after`. Of a read on the primary it asks
                that the primary is not one from before a promotion that the token knows.
            committed: is told the token of each commit.
        """
        self._wanted = wanted
        self.gate.committed = committed

    def settle_doubts(self, *, within_seconds: float) -> None:
        """Have `transact` find out by itself what became of a COMMIT whose answer was lost.

        To be called before the first unit of writing. Each unit then asks for its transaction's id before
        COMMIT, one more round trip.

        Parameters:
            within_seconds: how long the primary is asked, about. After that it is `CommitInDoubt` as before.
        """
        self._settle_seconds = within_seconds
        self.writer.traced = True

    def _want(self, after: CausalToken | None, freshness: Freshness, *, autocommit: bool) -> Want:
        if after is not None:
            freshness = freshness.with_token(after)
        if self._wanted is not None:
            freshness = freshness.with_token(self._wanted())
        return self.router.want(freshness, autocommit=autocommit)

    def read(
        self,
        *,
        after: CausalToken | None = None,
        freshness: Freshness = ANY,
        autocommit: bool = False,
        unit: Unit | None = None,
    ) -> ReadSession:
        """Make a read session; its first statement pins it to one node.

        Parameters:
            after: what the read must have seen. Without it any replica will do.
            freshness: a policy of `readreplica.freshness`; it holds together with `after`.
            autocommit: give up the one snapshot: each statement sees what is committed by then, and costs
                no BEGIN and no ROLLBACK. Where the server cannot be held to refuse writes in this way, the
                session has a snapshot all the same.
            unit: what goes along with the session.

        Raises (at the first statement):
            ReplicasTooStale: no replica is fit, and the primary has as many such reads as it may have.
        """
        return ReadSession(self.router, self._want(after, freshness, autocommit=autocommit), unit=unit)

    def write(self, *, unit: Unit | None = None) -> WriteSession:
        """Make a write session; it commits when its `async with` ends well.

        Parameters:
            unit: what goes along with the session.
        """
        return WriteSession(self.gate, self.primary, unit=unit)

    async def transact(
        self,
        work: Callable[[WriteSession], Awaitable[T]],
        *,
        attempts: int = 5,
        unit: Unit | None = None,
    ) -> T:
        """Do a unit of work in a write session, again from its start if a concurrent transaction ended it.

        It is also done again, for `ReplicaOptions.failover_wait_seconds`, if the primary was lost before
        COMMIT was sent: nothing of it can be committed then. A unit that has committed by itself before it
        failed is not done again; its error is the caller's.

        Parameters:
            work: is given a fresh write session at each attempt, and must have no effect outside of it.
            attempts: how often it is tried at most against concurrent transactions.
            unit: what goes along with the session of each attempt.

        Returns:
            What `work` returned. The session it was given holds the token then.

        Raises:
            RetriesExhausted: every attempt ended in SQLSTATE 40001 or 40P01.
            CommitInDoubt: COMMIT was sent and its answer was lost. It is never done again.
            CommitLost: the same, and nothing of it is there (only after `settle_doubts`).
        """

        tried: list[WriteSession] = []

        async def attempt() -> T:
            session = self.write(unit=unit)
            tried[:] = [session]
            done: list[T] = []
            try:
                async with session:
                    done.append(await work(session))
            except CommitInDoubt as doubt:
                if not done or self._settle_seconds is None:
                    raise
                await self._settle(doubt, session, within_seconds=self._settle_seconds)
            return done[0]

        def may_repeat() -> bool:
            return not any(session.has_committed or session.doubt for session in tried)

        give_up_at: float | None = None
        pause_seconds = OUTAGE_PAUSE_SECONDS
        while True:
            try:
                return await retry_unit(self.name, attempt, attempts=attempts, may_repeat=may_repeat)
            except (DBAPIError, WritesRefused, CommitLost) as error:
                now = self._clock()
                give_up_at = give_up_at or now + self.options.failover_wait_seconds
                nothing_done = isinstance(error, WritesRefused | CommitLost) or is_outage(error)
                if now >= give_up_at or not nothing_done or not may_repeat():
                    raise
            await self._pause(pause_seconds)
            pause_seconds = min(2 * pause_seconds, LONGEST_OUTAGE_PAUSE_SECONDS / 4)

    async def _settle(self, doubt: CommitInDoubt, session: WriteSession, *, within_seconds: float) -> None:
        """Find out what became of a session's COMMIT, and return if it is committed."""
        try:
            fate = await self.resolve(doubt, timeout_seconds=within_seconds)
        except SQLAlchemyError:
            fate = Fate.UNKNOWN  # the primary stays away
        if fate is Fate.ABORTED:
            session.sync_session.settle(None)
            raise CommitLost(self.name) from doubt
        position = self.token_of(doubt).positions.get(self.name)
        if fate is not Fate.COMMITTED or position is None:
            raise doubt
        session.sync_session.settle(position)

    async def _pause(self, pause_seconds: float) -> None:
        """Leave the looking to the monitor, and not to everybody who waits: it is cheaper, and as quick."""
        longest = self._clock() + LONGEST_OUTAGE_PAUSE_SECONDS
        await sleep(pause_seconds)
        # Not for ever: the monitor's role may lack what the writers' has.
        while not self.monitor.primacy.answers and self._clock() < longest:
            await sleep(OUTAGE_PAUSE_SECONDS)

    async def transact_read(
        self,
        work: Callable[[ReadSession], Awaitable[T]],
        *,
        after: CausalToken | None = None,
        freshness: Freshness = ANY,
        autocommit: bool = False,
        attempts: int = 3,
        unit: Unit | None = None,
    ) -> T:
        """Do a unit of reading, again on another node if its node failed or replay was in its way.

        Parameters:
            work: is given a fresh read session at each attempt, so it sees one snapshot at each.
            after, freshness, autocommit: as for `read`.
            attempts: how often it is tried at most; the last error is raised as it is.
            unit: what goes along with the session of each attempt.
        """
        want = self._want(after, freshness, autocommit=autocommit)
        while True:
            session = ReadSession(self.router, want, unit=unit)
            attempts -= 1
            try:
                async with session:
                    return await work(session)
            except DBAPIError as error:
                if attempts < 1 or not may_read_elsewhere(error):
                    raise
                if session.node is not None:
                    want = want._replace(avoided=want.avoided | {session.node})

    async def resolve(
        self,
        doubt: CommitInDoubt,
        *,
        lookup: Callable[[ReadSession], Awaitable[bool]] | None = None,
        timeout_seconds: float = 30.0,
    ) -> Fate:
        """Find out what became of a COMMIT whose answer was lost, on the primary of now.

        Parameters:
            doubt: the error.
            lookup: tells by the unit's idempotency key whether its effects are there, in a read session on
                the primary. It is asked only where the transaction's id does not tell: after a crash of the
                primary, or where the writer engine is not `traced`.
            timeout_seconds: how long it is asked for, about; the primary may be away meanwhile.

        Returns:
            COMMITTED or ABORTED: then it is known. Otherwise IN_PROGRESS after all that time, or UNKNOWN.
            `token_of` gives the token of a unit that is committed.
        """
        fate, position = await resolve(
            self.primary,
            doubt,
            was_standby=self.monitor.was_standby,
            timeout_seconds=timeout_seconds,
            clock=self._clock,
        )
        if fate is Fate.UNKNOWN and lookup is not None:
            was_done = await self.transact_read(lookup, freshness=PRIMARY_ONLY)
            fate = Fate.COMMITTED if was_done else Fate.ABORTED
        if fate is Fate.COMMITTED and position is not None:
            doubt.committed_at = position
            self.gate.committed(self.token_of(doubt))
        return fate

    def token_of(self, doubt: CommitInDoubt) -> CausalToken:
        """Give what a read must have seen to see a unit that `resolve` has found committed; empty before."""
        at = doubt.committed_at
        return CausalToken() if at is None else CausalToken({self.name: Position(at[0], at[1], Lsn(at[2]))})

    @asynccontextmanager
    async def drained(self, *, timeout_seconds: float) -> AsyncIterator[None]:
        """Hold this process's writes back for a planned switch-over: refuse new ones, await those under way.

        Inside the block the primary gets no write of this process's sessions; promote another there. After
        it, writes go to whichever node is the primary then.

        Raises:
            SwitchoverFailed: writes were under way still after all that time. Writes go on.
        """
        async with self.gate.drained(timeout_seconds=timeout_seconds):
            try:
                yield
            finally:
                # Before anybody may write again, or the first would still write the old one.
                await self.monitor.look_around(timeout_seconds=2 * self.options.answer_seconds)

    def add_replica(self, name: str, engine: AsyncEngine) -> None:
        """Add a node that has become known; it serves reads once polls have found it good.

        Parameters:
            name: its name, of no other node here.
            engine: a reader engine to it; `close` disposes it.

        Raises:
            ValueError: there is a node of that name.
            WrongEngine: it is no reader engine.
        """
        _check_kind(engine, EngineKind.READER, cluster=self.name, role=f"replica {name!r}")
        with self._adding:
            if name in self.monitor.nodes:
                raise ValueError(
                    f"{self.name} has a node {name!r} already; give the new one a name of its own"
                )
            node = Node(name, engine)
            # Out until polls have found it good: it may be of another cluster.
            node.health = Health(out=Fault.UNREACHABLE)
            self.writer.watch_reader(node)
            for listener in self._listeners:
                listener(engine)
            self.monitor.add(node)
            self._nodes.append(node)

    def on_engine(self, listener: Callable[[AsyncEngine], None]) -> None:
        """Call a listener with each engine, and with each that `add_replica` brings, before that one is used.

        Parameters:
            listener: called once for each engine, however often it is given here. It may listen to the
                engine's events, and must not add a replica.
        """
        with self._adding:
            if listener in self._listeners:
                return
            self._listeners.append(listener)
            for engine in (self.primary, *(node.engine for node in self._nodes)):
                listener(engine)

    def addresses(self) -> frozenset[str]:
        """Give where the known nodes listen, as HOST:PORT."""
        return frozenset(node.address for node in self._nodes)

    async def close(self) -> None:
        """End the monitor and close every pooled connection; a unit under way keeps its own to its end.

        Whoever needs a connection after this gets `ClusterClosed`.
        """
        await self.monitor.stop()
        for epoch in (self.writer.epoch, *(node.epoch for node in self._nodes)):
            epoch.close()
        for engine in (self.primary, *(node.engine for node in self._nodes)):
            await engine.dispose()

    def _on_new_primary(self) -> None:
        self.writer.leave_old_primary()


def _check_kind(engine: AsyncEngine, kind: EngineKind, *, cluster: str, role: str) -> None:
    """Refuse an engine at once: what it lacks would be missed in the midst of a unit of work."""
    found = kind_of(engine.sync_engine) if isinstance(engine, AsyncEngine) else None
    if found is not kind:
        make = writer_engine if kind is EngineKind.WRITER else reader_engine
        raise WrongEngine(
            cluster,
            role=role,
            found=f"a {found} engine" if found else f"another {type(engine).__name__}",
            needed=kind,
            make=f"{make.__module__}.{make.__name__}",
        )
