"""A cluster: one primary with its streaming replicas, and the sessions on them.

Which node is the primary is found by role and timeline, never by name: after a failover the same `Cluster`
and the same engines go on with the new one. See docs/explanation/replicas.md.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from readreplica.commit_resolution import resolve
from readreplica.concurrency import Lock
from readreplica.engines import reader_engine, writer_engine
from readreplica.errors import CommitInDoubt, CommitLost, WrongEngine, is_retryable_read
from readreplica.freshness import ANY, Freshness, ReadRequest
from readreplica.freshness import PRIMARY as PRIMARY_ONLY
from readreplica.health import NodeFault, NodeHealth
from readreplica.metrics import ClusterMetrics
from readreplica.monitor import Monitor
from readreplica.options import DEFAULTS, ReplicaOptions
from readreplica.pool import ClusterNode, EngineKind, kind_of
from readreplica.retry import UnitOfWork
from readreplica.routing import FORMER_PRIMARY, PRIMARY, Router
from readreplica.session_base import SessionHooks
from readreplica.sessions import ReadSession, WriteSession
from readreplica.token import CausalToken, Committed
from readreplica.transaction_status import TransactionStatus
from readreplica.wal import Lsn, Position
from readreplica.writer import WriteGate, Writer

__all__ = ["PRIMARY", "Cluster"]

T = TypeVar("T")


class Cluster:
    """Makes read and write sessions on one primary and its replicas."""

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
        """Make a cluster from engines of `readreplica.engines`; `close` disposes them.

        Parameters:
            name: the cluster's name in causal tokens.
            primary: a writer engine. It connects to the node that is the primary.
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
        self._engines = [primary, primary_reader, *replicas.values()]
        metrics = ClusterMetrics(name)
        self._nodes = [ClusterNode(PRIMARY, primary_reader.sync_engine, replica_name=FORMER_PRIMARY)]
        self._nodes += [ClusterNode(node, engine.sync_engine) for node, engine in replicas.items()]
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
            name,
            wait_first_poll=partial(self.monitor.wait_first_poll, timeout_seconds=2 * options.answer_seconds),
        )
        self._before_read: Callable[[], CausalToken | None] | None = None
        self._resolve_seconds: float | None = None
        self._listeners: list[Callable[[AsyncEngine], None]] = []
        self._adding = Lock()

    def set_token_hooks(
        self,
        *,
        before_read: Callable[[], CausalToken | None],
        after_commit: Callable[[CausalToken], None],
    ) -> None:
        """Set the hooks by which tokens follow what the sessions are used in, such as a request.

        Parameters:
            before_read: returns what a read must have seen beside its own `after`. A read on the primary is
                refused if that primary is older than a promotion that the token knows.
            after_commit: called with the token of each commit.
        """
        self._before_read = before_read
        self.gate.after_commit = after_commit

    def resolve_commits(self, *, within_seconds: float) -> None:
        """Make `transact` find out by itself what became of a COMMIT whose answer was lost.

        To be called before the first unit of writing. Each unit then asks for its transaction's id before
        COMMIT, one more round trip.

        Parameters:
            within_seconds: how long the primary is asked, about. After that it is `CommitInDoubt` as before.
        """
        self._resolve_seconds = within_seconds
        self.writer.record_xid = True

    def _request(self, after: CausalToken | None, freshness: Freshness, *, autocommit: bool) -> ReadRequest:
        if after is not None:
            freshness = freshness.with_token(after)
        if self._before_read is not None:
            freshness = freshness.with_token(self._before_read())
        return self.router.request_for(freshness, autocommit=autocommit)

    def read(
        self,
        *,
        after: CausalToken | None = None,
        freshness: Freshness = ANY,
        autocommit: bool = False,
        hooks: SessionHooks | None = None,
    ) -> ReadSession:
        """Make a read session; its first statement pins it to one node.

        Parameters:
            after: what the read must have seen. Without it any replica will do.
            freshness: a policy of `readreplica.freshness`; it holds together with `after`.
            autocommit: without the one snapshot: each statement sees what is committed by then, and costs
                no BEGIN and no ROLLBACK. Where the server cannot be held to refuse writes in this way, the
                session has a snapshot all the same.
            hooks: what goes along with the session.

        Raises (at the first statement):
            ReplicasTooStale: no replica is fit, and the primary has as many such reads as it may have.
        """
        return ReadSession(self.router, self._request(after, freshness, autocommit=autocommit), hooks=hooks)

    def write(self, *, hooks: SessionHooks | None = None) -> WriteSession:
        """Make a write session; it commits when its `async with` ends well.

        Parameters:
            hooks: what goes along with the session.
        """
        return WriteSession(self.gate, self.primary, hooks=hooks)

    async def transact(
        self,
        work: Callable[[WriteSession], Awaitable[T]],
        *,
        attempts: int = 5,
        hooks: SessionHooks | None = None,
    ) -> Committed[T]:
        """Run a unit of work in a write session, again from its start if a concurrent transaction ended it.

        It is also run again, for `ReplicaOptions.failover_wait_seconds`, if the primary was lost before
        COMMIT was sent: nothing of it can be committed then. A unit that has committed by itself before it
        failed is not run again; its error is raised.

        Parameters:
            work: called with a fresh write session at each attempt; must have no effect outside of it.
            attempts: how often it is tried at most against concurrent transactions.
            hooks: what goes along with the session of each attempt.

        Returns:
            What `work` returned, and the token with which a read sees it.

        Raises:
            RetriesExhausted: every attempt ended in SQLSTATE 40001 or 40P01.
            CommitInDoubt: COMMIT was sent and its answer was lost. It is never run again.
            CommitLost: the same, and nothing of it is there (only after `resolve_commits`).
        """
        unit = self.unit_of_work(work, attempts=attempts, hooks=hooks)
        return await unit.run()

    def unit_of_work(
        self,
        work: Callable[[WriteSession], Awaitable[T]],
        *,
        attempts: int = 5,
        failover_wait_seconds: float | None = None,
        hooks: SessionHooks | None = None,
    ) -> UnitOfWork[T]:
        """Return what `transact` runs; after a failure it knows whether the unit may be run again.

        Parameters:
            work: as for `transact`.
            attempts: as for `transact`.
            hooks: as for `transact`.
            failover_wait_seconds: in place of the cluster's option.
        """
        wait_seconds = self.options.failover_wait_seconds
        return UnitOfWork(
            self.name,
            work,
            new_session=partial(self.write, hooks=hooks),
            resolve=None if self._resolve_seconds is None else self._resolve_commit,
            monitor=self.monitor,
            clock=self._clock,
            attempts=attempts,
            failover_wait_seconds=wait_seconds if failover_wait_seconds is None else failover_wait_seconds,
        )

    async def _resolve_commit(self, in_doubt: CommitInDoubt, session: WriteSession) -> None:
        """Find out what became of a session's COMMIT, and return if it is committed."""
        assert self._resolve_seconds is not None
        try:
            status = await self.resolve(in_doubt, timeout_seconds=self._resolve_seconds)
        except SQLAlchemyError:
            status = TransactionStatus.UNKNOWN  # the primary stays away
        if status is TransactionStatus.ABORTED:
            session.sync_session.resolve_commit(None)
            raise CommitLost(self.name) from in_doubt
        position = self.token_of(in_doubt).positions.get(self.name)
        if status is not TransactionStatus.COMMITTED or position is None:
            raise in_doubt
        session.sync_session.resolve_commit(position)

    async def transact_read(
        self,
        work: Callable[[ReadSession], Awaitable[T]],
        *,
        after: CausalToken | None = None,
        freshness: Freshness = ANY,
        autocommit: bool = False,
        attempts: int = 3,
        hooks: SessionHooks | None = None,
    ) -> T:
        """Run a unit of reading, again on another node if its node failed or replay was in its way.

        Parameters:
            work: called with a fresh read session at each attempt, so it sees one snapshot at each.
            after: as for `read`.
            freshness: as for `read`.
            autocommit: as for `read`.
            attempts: how often it is tried at most; the last error is raised as it is.
            hooks: what goes along with the session of each attempt.
        """
        request = self._request(after, freshness, autocommit=autocommit)
        while True:
            session = ReadSession(self.router, request, hooks=hooks)
            attempts -= 1
            try:
                async with session:
                    return await work(session)
            except DBAPIError as error:
                if attempts < 1 or not is_retryable_read(error):
                    raise
                if session.node is not None:
                    request = request._replace(excluded=request.excluded | {session.node})

    async def resolve(
        self,
        in_doubt: CommitInDoubt,
        *,
        lookup: Callable[[ReadSession], Awaitable[bool]] | None = None,
        timeout_seconds: float = 30.0,
    ) -> TransactionStatus:
        """Find out what became of a COMMIT whose answer was lost, on the present primary.

        Parameters:
            in_doubt: the error.
            lookup: returns by the unit's idempotency key whether its effects are there, in a read session on
                the primary. It is called only where the transaction's id is not enough: after a crash of the
                primary, or where the writer engine does not `record_xid`.
            timeout_seconds: how long the primary is asked, about; it may be away meanwhile.

        Returns:
            COMMITTED or ABORTED: then it is known. Otherwise IN_PROGRESS after all that time, or UNKNOWN.
            `token_of` returns the token of a unit that is committed.
        """
        status, position = await resolve(
            self.primary,
            in_doubt,
            was_standby=self.monitor.was_standby,
            timeout_seconds=timeout_seconds,
            clock=self._clock,
        )
        if status is TransactionStatus.UNKNOWN and lookup is not None:
            was_done = await self.transact_read(lookup, freshness=PRIMARY_ONLY)
            status = TransactionStatus.COMMITTED if was_done else TransactionStatus.ABORTED
        if status is TransactionStatus.COMMITTED and position is not None:
            in_doubt.committed_at = position
            self.gate.after_commit(self.token_of(in_doubt))
        return status

    def token_of(self, in_doubt: CommitInDoubt) -> CausalToken:
        """Return what a read must have seen to see a unit that `resolve` found committed; empty before."""
        at = in_doubt.committed_at
        return CausalToken() if at is None else CausalToken({self.name: Position(at[0], at[1], Lsn(at[2]))})

    @asynccontextmanager
    async def drained(self, *, timeout_seconds: float) -> AsyncIterator[None]:
        """Hold this process's writes back for a planned switchover: refuse new ones, await those under way.

        Inside the block the primary gets no write of this process's sessions; promote another there. After
        it, writes go to the node that is the primary then.

        Raises:
            SwitchoverFailed: writes were still under way after all that time. Writes go on.
        """
        async with self.gate.drained(timeout_seconds=timeout_seconds):
            try:
                yield
            finally:
                # Before the next write, or it would still go to the old one.
                await self.monitor.poll_all(timeout_seconds=2 * self.options.answer_seconds)

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
            node = ClusterNode(name, engine.sync_engine)
            # Ejected until polls have found it good: it may be of another cluster.
            node.health = NodeHealth(ejected=NodeFault.UNREACHABLE)
            self.writer.watch_reader(node)
            for listener in self._listeners:
                listener(engine)
            self.monitor.add(node)
            self._nodes.append(node)
            self._engines.append(engine)

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
            for engine in self._engines:
                listener(engine)

    def addresses(self) -> frozenset[str]:
        """Return where the known nodes listen, as HOST:PORT."""
        return frozenset(node.address for node in self._nodes)

    async def close(self) -> None:
        """End the monitor and close every pooled connection; a unit under way keeps its own to its end.

        A session that needs a connection after this raises `ClusterClosed`.
        """
        await self.monitor.stop()
        self.writer.pool_generation.close()
        for node in self._nodes:
            node.pool_generation.close()
        for engine in self._engines:
            await engine.dispose()

    def _on_new_primary(self) -> None:
        self.writer.abort_connections()


def _check_kind(engine: AsyncEngine, kind: EngineKind, *, cluster: str, role: str) -> None:
    """Refuse an engine at once, or it would fail in the midst of a unit of work."""
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
