"""Keeps the writer engine aimed at the primary, and away from every other server.

It listens to SQLAlchemy's events, so whoever holds the engine is served: a session, a relay, a directory.
"""

from collections.abc import Callable
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine.interfaces import ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine

from readreplica.connections import AnswerLost, WriterConnection
from readreplica.errors import ClusterClosed, CommitInDoubt, NotThePrimary, TwoPrimaries
from readreplica.eviction import epoch_of
from readreplica.faults import OUTAGE_SQLSTATES, is_refusal
from readreplica.monitor import Monitor
from readreplica.nodes import Node
from readreplica.primacy import Primacy, may_write
from readreplica.probe import life_of


class Writer:
    """Aims an engine, looks at each new connection, and gives the whole pool up when the primary is lost."""

    def __init__(self, cluster: str, engine: AsyncEngine, monitor: Monitor) -> None:
        self._cluster = cluster
        self._monitor = monitor
        self.traced = False
        """Whether connections that are made from now on ask for a transaction's id before its COMMIT."""
        bind = engine.sync_engine
        self.epoch = epoch_of(bind)
        event.listen(bind, "do_connect", self._aim)
        event.listen(bind, "connect", self._admit)
        event.listen(bind, "handle_error", self._on_error, retval=True)

    def leave_old_primary(self) -> None:
        """Give up every connection, those in use too: what they do can no longer be committed.

        The old primary may be cut off, and would keep its clients waiting for as long as TCP does.
        """
        self.epoch.evict(abort=True)

    def watch_reader(self, node: Node) -> None:
        """Look after a node's readers as well: a connection that is lost has the monitor look at once."""

        def on_connect(*_: Any) -> None:
            self._refuse_closed()
            self._monitor.start()

        def on_error(context: ExceptionContext) -> None:
            if context.is_disconnect and node is not self._monitor.primary:
                self._monitor.look(node)

        def on_invalidate(_connection: Any, _record: Any, error: BaseException | None) -> None:
            if error is not None and not isinstance(error, Exception):
                return  # called off: that says nothing of the server
            # A standby that crashed comes back with less than it had replayed: what it said holds no more.
            if node is not self._monitor.primary:
                node.forget()
                self._monitor.look(node)

        def on_connected(connection: Any, record: Any) -> None:
            # The monitor's connection may lead to another server: one from before a move, or a restart.
            life = life_of(connection)
            if life is not None and not node.meet(life, record):
                self._monitor.mistrust(node)
                node.epoch.admit(record)

        event.listen(node.bind, "do_connect", on_connect)
        event.listen(node.bind, "connect", on_connected)
        event.listen(node.bind, "invalidate", on_invalidate)
        event.listen(node.bind, "handle_error", on_error)

    def _aim(self, _dialect: Any, _record: Any, _arguments: Any, options: dict[str, Any]) -> None:
        self._refuse_closed()
        self._monitor.start()
        node = self._monitor.primary
        if node is None:
            raise TwoPrimaries(self._cluster, self._monitor.primacy.rivals)
        if self._monitor.primacy.answers or self._monitor.primacy.system_identifier is not None:
            # A pooler may have several servers behind one port, each under a database name of its own.
            url = node.engine.url
            options.update(host=url.host, port=url.port or 5432, dbname=url.database)

    def _refuse_closed(self) -> None:
        # A connection that is made after close() would be nobody's to close.
        if self._monitor.is_closed:
            raise ClusterClosed(self._cluster)

    def _admit(self, dbapi_connection: Any, _record: Any) -> None:
        connection = getattr(dbapi_connection, "driver_connection", dbapi_connection)
        assert isinstance(connection, WriterConnection)
        try:
            checked = self._check(connection)
        except NotThePrimary:
            dbapi_connection.close()
            self._monitor.suspect()
            raise
        connection.traced = connection.traced or self.traced
        connection.guard = self._guard_of(connection, checked)

    def _guard_of(self, connection: WriterConnection, checked: Primacy) -> Callable[[], None]:
        def guard() -> None:
            # Each answer of a node makes a new Primacy; between them come many commits.
            nonlocal checked
            if self._monitor.primacy is not checked:
                checked = self._check(connection)

        return guard

    def _check(self, connection: WriterConnection) -> Primacy:
        """Refuse a server of another system, or of an older timeline than the newest primary's."""
        known = self._monitor.primacy
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
            return None  # called off: that says nothing of the server
        # A ping would pass on a demoted primary, and SQLAlchemy takes 25006 for the statement's fault.
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = False  # by the epoch, which knows no clock
        if not is_refusal(context.original_exception):
            self.epoch.evict()
        self._monitor.suspect()
        lost = context.original_exception
        return CommitInDoubt(self._cluster, **lost.doubt._asdict()) if isinstance(lost, AnswerLost) else None
