# Generated from readreplica/writer.py by `make sync`: change that file, not this one.
"""Connects the writer engine to the primary and to no other server, and counts the writes of this process.

`Writer` listens to SQLAlchemy's events, so every user of the engine is served: a session,
a relay, a directory.
`WriteGate` is passed by every write session, so that a planned switchover can hold writes back.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine.interfaces import ExceptionContext

from readreplica.election import PrimaryState, may_write
from readreplica.errors import (
    OUTAGE_SQLSTATES,
    ClusterClosed,
    CommitInDoubt,
    NotThePrimary,
    SwitchoverFailed,
    TwoPrimaries,
    WritesRefused,
    is_rejection,
)
from readreplica.pool import ClusterNode, pool_generation_of, read_incarnation
from readreplica.sync.concurrency import Event, Lock, wait_for
from readreplica.sync.connections import CommitAnswerLost, WriterConnection
from readreplica.sync.monitor import Monitor
from readreplica.token import CausalToken


class Writer:
    """Connects an engine to the primary, checks each new connection, and evicts the pool in an outage."""

    def __init__(self, cluster: str, engine: Engine, monitor: Monitor) -> None:
        self._cluster = cluster
        self._monitor = monitor
        self.record_xid = False
        """Whether connections that are made from now on ask for a transaction's id before its COMMIT."""
        bind = engine
        self.pool_generation = pool_generation_of(bind)
        event.listen(bind, "do_connect", self._connect_to_primary)
        event.listen(bind, "connect", self._on_connected)
        event.listen(bind, "handle_error", self._on_error, retval=True)

    def abort_connections(self) -> None:
        """Abort every connection, those in use too: what they do can no longer be committed.

        The old primary may be cut off, and would keep its clients waiting for as long as TCP does.
        """
        self.pool_generation.evict(abort=True)

    def watch_reader(self, node: ClusterNode) -> None:
        """Listen to a node's reader engine as well: after a lost connection the node is polled at once."""

        def on_connect(*_: Any) -> None:
            self._refuse_closed()
            self._monitor.start()

        def on_error(context: ExceptionContext) -> None:
            if context.is_disconnect and node is not self._monitor.primary:
                self._monitor.poll(node)

        def on_invalidate(_connection: Any, _record: Any, error: BaseException | None) -> None:
            if error is not None and not isinstance(error, Exception):
                return  # cancelled: that says nothing of the server
            # A standby that crashed comes back with less than it had replayed.
            if node is not self._monitor.primary:
                node.forget()
                self._monitor.poll(node)

        def on_connected(connection: Any, record: Any) -> None:
            # The monitor's connection may lead to another server: one from before a move, or a restart.
            incarnation = read_incarnation(connection)
            if incarnation is not None and not node.record_connection(incarnation, record):
                self._monitor.mark_replaced(node)
                node.pool_generation.admit(record)

        event.listen(node.engine, "do_connect", on_connect)
        event.listen(node.engine, "connect", on_connected)
        event.listen(node.engine, "invalidate", on_invalidate)
        event.listen(node.engine, "handle_error", on_error)

    def _connect_to_primary(
        self, _dialect: Any, _record: Any, _arguments: Any, options: dict[str, Any]
    ) -> None:
        self._refuse_closed()
        self._monitor.start()
        node = self._monitor.primary
        if node is None:
            raise TwoPrimaries(self._cluster, self._monitor.primary_state.rivals)
        if self._monitor.primary_state.answers or self._monitor.primary_state.system_identifier is not None:
            # A pooler may have several servers behind one port, each under a database name of its own.
            url = node.engine.url
            options.update(host=url.host, port=url.port or 5432, dbname=url.database)

    def _refuse_closed(self) -> None:
        # A connection that is made after close() would never be closed.
        if self._monitor.is_closed:
            raise ClusterClosed(self._cluster)

    def _on_connected(self, dbapi_connection: Any, _record: Any) -> None:
        connection = getattr(dbapi_connection, "driver_connection", dbapi_connection)
        assert isinstance(connection, WriterConnection)
        try:
            checked = self._check(connection)
        except NotThePrimary:
            dbapi_connection.close()
            self._monitor.request_election()
            raise
        connection.record_xid = connection.record_xid or self.record_xid
        connection.guard = self._guard_of(connection, checked)

    def _guard_of(self, connection: WriterConnection, checked: PrimaryState) -> Callable[[], None]:
        def guard() -> None:
            # Each answer of a node makes a new PrimaryState; between them come many commits.
            nonlocal checked
            if self._monitor.primary_state is not checked:
                checked = self._check(connection)

        return guard

    def _check(self, connection: WriterConnection) -> PrimaryState:
        """Refuse a server of another system, or of an older timeline than the newest primary's."""
        known = self._monitor.primary_state
        if may_write(known, connection.position):
            return known
        fault = f"it is on timeline {connection.position.timeline}, and the primary on {known.timeline}"
        if connection.position.system_identifier != known.system_identifier:
            fault = f"its system identifier is {connection.position.system_identifier}"
        info = connection.info
        raise NotThePrimary(self._cluster, f"{info.host}:{info.port}", fault)

    def _on_error(self, context: ExceptionContext) -> CommitInDoubt | None:
        sqlstate = getattr(context.original_exception, "sqlstate", None)
        could_not_connect = sqlstate is None and context.connection is None
        if not (sqlstate in OUTAGE_SQLSTATES or context.is_disconnect or could_not_connect):
            return None  # the server's answer to a statement
        if not isinstance(context.original_exception, Exception):
            return None  # cancelled: that says nothing of the server
        # A ping would pass on a demoted primary, and SQLAlchemy takes 25006 for the statement's fault.
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = False  # by the generation, which needs no clock
        if not is_rejection(context.original_exception):
            self.pool_generation.evict()
        self._monitor.request_election()
        lost = context.original_exception
        if not isinstance(lost, CommitAnswerLost):
            return None
        return CommitInDoubt(self._cluster, **lost.in_doubt._asdict())


class WriteGate:
    """Counts the write sessions of one cluster in this process, and holds them back in a switchover."""

    def __init__(self, name: str, *, wait_first_poll: Callable[[], None]) -> None:
        """Begin to count.

        Parameters:
            name: the cluster's.
            wait_first_poll: waits, bounded, until every node has been polled once.
        """
        self.name = name
        self.is_open = False
        """Whether the nodes were polled: before that a primary from before a failover would be written."""
        self._wait_first_poll = wait_first_poll
        self.after_commit: Callable[[CausalToken], None] = lambda _token: None
        """Called with the token of each commit."""
        self._writing = 0
        self._holds_writes = False
        self._is_drained = Event()
        self._lock = Lock()

    def open(self) -> None:
        """Wait until every node was polled: then the primary is known by its role, and not by its name."""
        self._wait_first_poll()
        self.is_open = True

    def begin_write(self) -> None:
        """Count a unit of writing.

        Raises:
            WritesRefused: a switchover is under way.
        """
        with self._lock:
            if self._holds_writes:
                raise WritesRefused(self.name, retry_after_seconds=1.0)
            self._writing += 1

    def end_write(self) -> None:
        """Count the end of a unit of writing."""
        with self._lock:
            self._writing -= 1
            if self._writing == 0 and self._holds_writes:
                self._is_drained.set()

    @contextmanager
    def drained(self, *, timeout_seconds: float) -> Iterator[None]:
        """Hold this process's writes back; see `Cluster.drained`.

        Raises:
            SwitchoverFailed: writes were still under way after all that time. Writes go on.
        """
        with self._lock:
            if self._holds_writes:
                raise SwitchoverFailed(self.name, "another switchover of it is under way in this process")
            self._holds_writes = True
            self._is_drained.clear()
            if self._writing == 0:
                self._is_drained.set()
        try:
            if not wait_for(self._is_drained, timeout_seconds=timeout_seconds):
                fault = f"{self._writing} writes were under way still after {timeout_seconds:g} s"
                raise SwitchoverFailed(self.name, fault)
            yield
        finally:
            self._holds_writes = False
